"""Refuses what finds no turn before anything else is done with it: a refusal must cost far less than an answer."""

import re
from collections.abc import Collection

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.errors import error_response
from app.http.turns import Busy, Turns

_USABLE_ID = re.compile(rb"[\w.-]{1,64}", re.ASCII)
_REFUSED = Counter("dianda_http_refused_early_total", "Requests that were refused because no turn was free.", ["route"])


class EarlyRefusal:
    """Stands around the whole app; such requests are counted by `dianda_http_refused_early_total` alone."""

    def __init__(self, app: ASGIApp, *, turns: Turns, paths: Collection[str]) -> None:
        self._app = app
        self._turns = turns
        self._counts = {path: _REFUSED.labels(path) for path in paths}
        refusal = Busy(turns.refusal)
        response = error_response(429, refusal.message, code=refusal.code)
        self._headers, self._body = response.raw_headers, bytes(response.body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI call."""
        if scope["type"] != "http" or not self._turns.are_taken or scope["path"] not in self._counts:
            await self._app(scope, receive, send)
            return
        self._counts[scope["path"]].inc()
        given = [value for name, value in scope["headers"] if name == b"x-request-id" and _USABLE_ID.fullmatch(value)]
        headers = [*self._headers, (b"x-request-id", given[-1])] if given else self._headers
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})
