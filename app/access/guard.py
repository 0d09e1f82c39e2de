"""Stands before every route and turns away whoever may not pass, before a byte of the body is read."""

import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import urlsplit

import structlog
from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.callers import ANYBODY, Caller
from app.access.errors import ForeignPage, MissingKey, ScopeTooNarrow
from app.access.key_ring import KeyInForce, KeyRing
from app.access.route_policy import Needed, RoutePolicy
from app.access.sessions import COOKIE, Sessions
from app.errors import AppError, NotFound, Unauthenticated
from app.http.errors import error_response, status_of

RefusePage = Callable[[Scope, Receive, Send, AppError], Awaitable[None]]
"""Shows a refusal to a person with a browser."""
_REFUSED = Counter("dianda_access_refused_total", "Requests that were turned away for lack of a key, scope or pace.", ["code"])
_SAFE = ("GET", "HEAD", "OPTIONS")
_MAX_KEY_CHARS = 200
_POLICY_VIOLATION = 1008
_log = structlog.get_logger()


class UnknownPath(NotFound):
    """No route of this path was declared."""

    code = "unknown_path"


class Guard:
    """A plain ASGI middleware; puts the `Caller` into the request's state.

    With `asks` false, keys are asked for all the same where a request came from another host or to an address that is not
    loopback: a server may have been started on another address than the settings say, or behind a proxy.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        asks: bool,
        trusts_proxies: bool,
        ring: KeyRing,
        policy: RoutePolicy,
        pages: tuple[Sessions, RefusePage],
    ) -> None:
        """`trusts_proxies`: where no keys are asked for, also take what a proxy on this host brings from elsewhere."""
        self._app = app
        self._asks = asks
        self._trusts_proxies = trusts_proxies
        self._ring = ring
        self._policy = policy
        self._sessions, self._refuse_page = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI call."""
        if scope["type"] == "websocket":
            # No route is one; none shall be open because it was forgotten here.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        needed, headers = self._policy.needed(scope), dict(scope["headers"])
        state = scope.setdefault("state", {})
        try:
            if not self._asks and self._is_at_home(scope):
                _refuse_foreign_page(scope, headers)
                state["caller"] = ANYBODY
                key = None
            elif needed.scope is None:
                state["caller"] = key = None
            else:
                key = await self._admit(scope, headers, needed)
                key.limits.enter(time.monotonic())
        except AppError as error:
            await self._refuse(scope, receive, send, error)
            return
        if key is None:
            await self._app(scope, receive, send)
            return
        # For what goes on long after it was let in.
        state["is_still_let_in"] = partial(self._ring.holds, key)
        try:
            await self._app(scope, receive, send)
        finally:
            key.limits.leave()

    async def _admit(self, scope: Scope, headers: dict[bytes, bytes], needed: Needed) -> KeyInForce:
        if (secret := _secret_of(headers)) is not None:
            key = await self._ring.get(secret)
        else:
            key = await self._key_of_session(scope, headers)
        scope["state"]["caller"] = key.caller
        if not needed.is_declared:
            raise UnknownPath("There is no such path. The API is described at /docs.")
        assert needed.scope is not None
        if not key.caller.scope.includes(needed.scope):
            raise ScopeTooNarrow(
                f"This needs a key of the scope {needed.scope.value}; the key {key.caller.name!r} has the scope "
                f"{key.caller.scope.value}. Ask an operator for another key."
            )
        return key

    async def _key_of_session(self, scope: Scope, headers: dict[bytes, bytes]) -> KeyInForce:
        # A browser sends its cookies along with what another site asks it to send: such a request may only read, but for
        # the pages' own forms, which carry a token.
        cookie = _cookie_of(headers) if scope["method"] in _SAFE or _is_page(scope) else None
        if cookie is None:
            raise MissingKey("Send an API key: Authorization: Bearer KEY. An operator makes one with: dianda key create")
        return await self._sessions.get(cookie)

    def _is_at_home(self, scope: Scope) -> bool:
        server, client = scope.get("server"), scope.get("client")
        if server is not None and _is_elsewhere(server[0]):
            return False
        return self._trusts_proxies or client is None or not _is_elsewhere(client[0])

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: AppError) -> None:
        _REFUSED.labels(error.code).inc()
        caller: Caller | None = scope["state"].get("caller")
        _log.info("access_refused", code=error.code, method=scope["method"], key_id=caller and caller.key_id)
        if _is_page(scope):
            await self._refuse_page(scope, receive, send, error)
            return
        response = error_response(status_of(error), error.message, code=error.code, retry_after_s=error.retry_after_s)
        if isinstance(error, Unauthenticated):
            response.headers["www-authenticate"] = 'Bearer realm="dianda"'
        await response(scope, receive, send)


def _secret_of(headers: dict[bytes, bytes]) -> str | None:
    given = headers.get(b"authorization")
    if given is not None:
        kind, _, secret = given.partition(b" ")
        if kind.lower() == b"bearer":
            return secret.strip()[:_MAX_KEY_CHARS].decode("latin-1")
    # As the openai client's Azure dialect sends it.
    other = headers.get(b"api-key")
    return None if other is None else other[:_MAX_KEY_CHARS].decode("latin-1")


def _cookie_of(headers: dict[bytes, bytes]) -> str | None:
    try:
        found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _refuse_foreign_page(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Keeps pages of other sites away from an API that asks for no keys: the browser of whoever works on this host reaches it.

    Raises:
        ForeignPage: the request was sent for one, or names this host by a name that another site may have pointed here.
    """
    if scope["method"] not in _SAFE and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
        raise ForeignPage("A page of another site sent this. Open the console itself, or use an API key (DIANDA_AUTH=on).")
    if not _is_own_name(headers.get(b"host", b"")):
        raise ForeignPage("Without API keys this host is called by its address or as localhost. Else set DIANDA_AUTH=on.")


def _is_page(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == "/" or path.startswith("/console")


@lru_cache(maxsize=1024)
def _is_elsewhere(host: str) -> bool:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        # A socket's path.
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_loopback


@lru_cache(maxsize=1024)
def _is_own_name(host: bytes) -> bool:
    try:
        name = urlsplit(f"//{host.decode('latin-1')}").hostname or ""
        if "." not in name.rstrip(".") or name.endswith(".localhost"):
            return True
        ip_address(name)
    except ValueError:
        return False
    return True
