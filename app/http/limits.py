"""What no request may have. Starlette has a limit of bodies too, but answers in plain text and outside of our middleware."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import error_response


class RequestLimits:
    """Refuses a NUL character in the address, which PostgreSQL cannot be asked for, and a body over the limit.

    A body is refused by its declared length before a byte is read, else once it has grown too long.
    """

    def __init__(self, app: ASGIApp, *, limit_bytes: int, limits_of_paths: Mapping[str, int]) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._limits_of_paths = limits_of_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            response = error_response(400, "The address holds a NUL character.", code="invalid_request")
            await response(scope, receive, send)
            return
        limit_bytes = self._limits_of_paths.get(scope["path"], self._limit_bytes)
        message = f"The request's body has more than {limit_bytes} bytes, the limit of this path."
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > limit_bytes:
            await error_response(413, message, code="too_large")(scope, receive, send)
            return
        received_bytes = 0

        async def receive_within_limit() -> Message:
            nonlocal received_bytes
            part = await receive()
            received_bytes += len(part.get("body", b""))
            if received_bytes > limit_bytes:
                # The one kind of error that FastAPI lets through while it reads a body.
                raise HTTPException(413, message)
            return part

        await self._app(scope, receive_within_limit, send)
