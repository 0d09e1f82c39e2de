"""Asks the answerer process over HTTP."""

from typing import Any

import httpx2

from app.answers.backend import (
    AnswererUnavailable,
    AnswerRequest,
    AnswerResult,
    Candidate,
    ConfidentCode,
    Overloaded,
)
from app.errors import AppError, Internal, InvalidInput

_NO_ANSWER = "The answerer gave an answer that is none."


class RefusedByAnswerer(InvalidInput):
    """The answerer's own words about a question or adapter that it cannot use."""


class AnswererBackend:
    """An `AnswerBackend` in another process."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx2.AsyncClient(base_url=url, timeout=httpx2.Timeout(timeout_s, connect=2.0), limits=limits)

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        """Returns one result a question, in order."""
        body = {
            "questions": list(request.questions),
            "base_model": request.base_model,
            "adapter_checksum": request.adapter_checksum,
            "alternatives": request.alternatives,
        }
        try:
            response = await self._client.post("/answer", json=body)
        except httpx2.HTTPError as error:
            raise AnswererUnavailable("The answerer does not answer. Try again in a moment.") from error
        if response.status_code != 200:
            raise _error_of(response)
        try:
            results = [_result(item) for item in response.json()["results"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Internal(_NO_ANSWER) from error
        if len(results) != len(request.questions):
            raise Internal(_NO_ANSWER)
        return results

    async def health(self) -> str | None:
        """Returns None if the answerer holds its base model."""
        try:
            response = await self._client.get("/health", timeout=2.0)
        except httpx2.HTTPError:
            return "The answerer does not answer. Look at its log and start it again."
        try:
            state = response.json()
            return None if state["status"] == "ready" else str(state["message"])
        except (ValueError, KeyError, TypeError):
            return "What answers in the answerer's place is none. Check DIANDA_ANSWERER_URL."

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _error_of(response: httpx2.Response) -> AppError:
    try:
        detail = response.json()["error"]
        message, code, param = str(detail["message"]), str(detail["code"]), detail.get("param")
    except (ValueError, KeyError, TypeError):
        return Internal(_NO_ANSWER)
    if response.status_code == 429:
        return Overloaded(message)
    if response.status_code == 503:
        return AnswererUnavailable(message)
    if response.status_code >= 500:
        return Internal("The answerer failed. Its log says why.")
    error = RefusedByAnswerer(message, param=param)
    error.code = code  # type: ignore[misc]  # the answerer's stable code goes through
    return error


def _result(item: dict[str, Any]) -> AnswerResult:
    return AnswerResult(
        best=_candidate(item["best"]),
        alternatives=tuple(_candidate(other) for other in item["alternatives"]),
        prompt_tokens=item["prompt_tokens"],
        completion_tokens=item["completion_tokens"],
    )


def _candidate(item: dict[str, Any]) -> Candidate:
    return Candidate(tuple(ConfidentCode(**code) for code in item["codes"]), item["confidence"])
