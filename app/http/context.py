"""Request ids, access log, HTTP metrics, and the last net for faults: one plain ASGI middleware that reads no body."""

import re
import time
import uuid

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import error_response

_log = structlog.get_logger()
_REQUESTS = Counter("dianda_http_requests_total", "Requests by route and status.", ["method", "route", "status"])
_SECONDS = Histogram("dianda_http_seconds", "Seconds until the response ended.", ["method", "route"])
_USABLE_ID = re.compile(rb"[\w.-]{1,64}", re.ASCII)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# What is served as data stays data, whatever a file that somebody uploaded looks like to a browser.
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_QUIET = ("/health", "/metrics")


class RequestContext:
    """Gives each request an id (the client's `x-request-id`, if usable), binds it to the log, counts and times."""

    def __init__(self, app: ASGIApp, *, quiet_routes: tuple[str, ...] = ()) -> None:
        """`quiet_routes` write a line only of failures of ours: at a thousand requests a second a line costs too much."""
        self._app = app
        self._quiet = frozenset(quiet_routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status, answering, started = 500, False, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, answering
            if message["type"] == "http.response.start":
                status, answering = message["status"], True
                headers = [*message["headers"], (b"x-request-id", request_id.encode())]
                if _NO_SNIFFING not in headers:
                    headers.append(_NO_SNIFFING)
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            # Here and not in an exception handler: FastAPI runs that one outside, where no request id is known any more.
            _log.error("unhandled_error", exc_info=error)
            if answering:
                raise
            message = "Something went wrong on our side. The header x-request-id finds it in the log."
            await error_response(500, message, code="internal")(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            # A client may invent methods without end; a metric keeps every label for ever.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            _REQUESTS.labels(method, route, status).inc()
            _SECONDS.labels(method, route).observe(seconds)
            if not route.startswith(_QUIET) and (status >= 500 or route not in self._quiet):
                _log.info("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))
