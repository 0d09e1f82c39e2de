"""JSON bodies that may be read in two ways: a field named twice, of which parsers take the last, and UTF-16, which some guess."""

from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.direct_route import is_json
from app.ml.formats.repeated_names import find_repeated_name

_MAX_NAME_CHARS = 100
# Longer bodies are looked at in a thread, so that no answer waits.
_THREAD_FROM_BYTES = 64 * 1024


class StrictJson:
    """Refuses them once the whole body is there; stands inside the limit of bodies, which are held here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI call."""
        if scope["type"] != "http" or not is_json(scope):
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []

        async def receive_watched() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    await _refuse(b"".join(parts))
                    parts.clear()
            return message

        await self._app(scope, receive_watched, send)


async def _refuse(body: bytes) -> None:
    if b"\x00" in body:
        # In UTF-8 it stands in no JSON.
        raise HTTPException(422, "The body is no JSON in UTF-8.")
    repeated = find_repeated_name(body) if len(body) < _THREAD_FROM_BYTES else await run_sync(find_repeated_name, body)
    if repeated is not None:
        # The one kind of error that FastAPI lets through while it reads a body.
        raise HTTPException(422, f"The body has {repeated[:_MAX_NAME_CHARS]!r} twice in one object. Send it once.")
