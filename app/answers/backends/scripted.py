"""Answers from a table: for tests and for developing an app without a model."""

from collections.abc import Mapping

from app.answers.backend import AnswerRequest, AnswerResult, Candidate, ConfidentCode


class ScriptedBackend:
    """An `AnswerBackend` that knows some questions and gives the same answer to all others."""

    def __init__(self, answers: Mapping[str, tuple[str, ...]], *, default: tuple[str, ...] = ("业务简介_1",)) -> None:
        self._answers = answers
        self._default = default
        self.requests: list[AnswerRequest] = []

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        """Returns one result a question, in order."""
        self.requests.append(request)
        return [self._result(question) for question in request.questions]

    async def health(self) -> str | None:
        """A table is always ready."""
        return None

    async def find_pause(self) -> str | None:
        """Returns None: its card is its own."""
        return None

    async def close(self) -> None:
        """Holds nothing."""

    def _result(self, question: str) -> AnswerResult:
        codes = tuple(ConfidentCode(code, 0.9, True) for code in self._answers.get(question, self._default))
        return AnswerResult(Candidate(codes, 0.9 ** len(codes)), (), len(question), len(codes))
