"""A route for bodies that arrive a thousand times a second: described by FastAPI, run without its dependency machinery."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.http.turns import Turns

_CLIENT_GONE = 499
_NOT_JSON = "The body is not JSON. Send the header content-type: application/json."


class DirectRoute(APIRoute):
    """A route whose endpoint is `async (request, body: Model) -> Model | Response`, with no other dependency.

    The endpoint is cancelled when its client goes away. With `turns`, a request that finds none free is refused before its
    body is read. Put such routes into the app's own list of routes, in front: an included router is searched more slowly.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], *, turns: Turns | None = None, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._turns = turns
        body: type[BaseModel] = get_type_hints(endpoint)["body"]
        self._validate = body.__pydantic_validator__.validate_json

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Compares texts before patterns."""
        if scope["type"] == "http" and scope["path"] == self.path and scope["method"] == "POST":
            return Match.FULL, {"endpoint": self.endpoint, "path_params": {}, "route": self}
        return super().matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI call.

        Raises:
            Busy: no turn is free.
            RequestValidationError: the body is malformed.
        """
        if scope["method"] != "POST":
            await super().handle(scope, receive, send)
        elif self._turns is None:
            await self._answer(scope, receive, send)
        else:
            with self._turns.take():
                await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = await _read(receive)
        if content is None:
            await Response(status_code=_CLIENT_GONE)(scope, receive, send)
            return
        if not is_json(scope):
            raise RequestValidationError([{"type": "not_json", "loc": ("body",), "msg": _NOT_JSON}])
        try:
            body = self._validate(content)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            raise RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in problems]) from error
        reply = await _while_connected(receive, self.endpoint(Request(scope, receive, send), body))
        if isinstance(reply, BaseModel):
            content = reply.__pydantic_serializer__.to_json(reply)
            headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content})
        else:
            await (reply or Response(status_code=_CLIENT_GONE))(scope, receive, send)


def is_json(scope: Scope) -> bool:
    """Says whether a request's content type is JSON's."""
    # A form of another site may post text/plain to loopback; JSON it may not.
    for name, value in scope["headers"]:
        if name == b"content-type":
            media = value.partition(b";")[0].strip().lower()
            return bool(media == b"application/json" or (media.startswith(b"application/") and media.endswith(b"+json")))
    return False


async def _read(receive: Receive) -> bytes | None:
    """Returns the body, or None if the client went away before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _while_connected(receive: Receive, work: Awaitable[Any]) -> Any:
    """Returns what the work gives, or None if the client went away: then the work was cancelled."""
    task = asyncio.current_task()
    assert task is not None
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if is_gone and task.uncancel() == 0:
            return None
        raise
    finally:
        watcher.cancel()
