"""Asks the answerer process over HTTP."""

from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from pydantic import TypeAdapter, ValidationError

from app.answers.backend import AnswererUnavailable, AnswerRequest, AnswerResult, Overloaded, ServingPaused
from app.errors import AppError, Internal, InvalidInput

_NO_ANSWER = "The answerer gave an answer that is none."
_CONNECT_S = 2.0
# Shorter than the 5 seconds after which uvicorn closes an idle connection: else a question may meet the closing.
_IDLE_S = 4.0
_HEADERS = {"content-type": "application/json"}


class RefusedByAnswerer(InvalidInput):
    """The answerer's own words about a question or adapter that it cannot use."""


@dataclass(frozen=True)
class _Reply:
    results: list[AnswerResult]


@dataclass(frozen=True)
class _Refusal:
    message: str
    code: str
    param: str | None = None


@dataclass(frozen=True)
class _RefusalBody:
    error: _Refusal


_REPLY = TypeAdapter(_Reply)
_REFUSAL = TypeAdapter(_RefusalBody)


class AnswererBackend:
    """An `AnswerBackend` in another process; a cancelled question closes its connection, which cancels it there too."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._opened: aiohttp.ClientSession | None = None

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        """Returns one result a question, in order."""
        wait_s = self._timeout_s if request.deadline_s is None else min(request.deadline_s, self._timeout_s)
        try:
            async with self._session.post(
                f"{self._url}/answer",
                data=orjson.dumps(request),
                headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=wait_s, sock_connect=_CONNECT_S),
                allow_redirects=False,
            ) as response:
                status, content = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AnswererUnavailable("The answerer does not answer. Try again in a moment.") from error
        if status != 200:
            raise _error_of(status, content)
        try:
            results = _REPLY.validate_json(content).results
        except ValidationError as error:
            raise Internal(_NO_ANSWER) from error
        if len(results) != len(request.questions):
            raise Internal(_NO_ANSWER)
        return results

    async def health(self) -> str | None:
        """Returns None if the answerer holds its base model, or has left the card to a job as it was told."""
        try:
            state = await self._state()
            return None if state["status"] in ("ready", "suspended") else str(state["message"])
        except (aiohttp.ClientError, TimeoutError):
            return "The answerer does not answer. Look at its log and start it again."
        except (ValueError, KeyError, TypeError):
            return "What answers in the answerer's place is none. Check DIANDA_ANSWERER_URL."

    async def find_pause(self) -> str | None:
        """Returns what a pause of the answers means to askers; None while there is none, or nobody says."""
        try:
            state = await self._state()
            return str(state["pause"]) if state.get("pause") else None
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
            return None

    async def close(self) -> None:
        """Closes the connections."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def _state(self) -> Any:
        async with self._session.get(f"{self._url}/health", timeout=aiohttp.ClientTimeout(total=2.0)) as response:
            return orjson.loads(await response.read())

    @property
    def _session(self) -> aiohttp.ClientSession:
        # Opened by the first question, because it belongs to the event loop that runs then.
        if self._opened is None:
            # How many at once is bounded where questions come in; a second bound here would only hide the wait.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S)
            self._opened = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            )
        return self._opened


def _error_of(status: int, content: bytes) -> AppError:
    try:
        refusal = _REFUSAL.validate_json(content).error
    except ValidationError:
        return Internal(_NO_ANSWER)
    if status == 429:
        return Overloaded(refusal.message)
    if status == 503 and refusal.code == ServingPaused.code:
        return ServingPaused(refusal.message)
    if status == 503:
        return AnswererUnavailable(refusal.message)
    if status >= 500:
        return Internal("The answerer failed. Its log says why.")
    error = RefusedByAnswerer(refusal.message, param=refusal.param)
    error.code = refusal.code  # type: ignore[misc]  # the answerer's stable code goes through
    return error
