"""A backend whose every answer names the adapter that gave it."""

import asyncio
from dataclasses import dataclass, field

from app.answers.backend import AnswererUnavailable, AnswerRequest, AnswerResult, Candidate, ConfidentCode
from app.errors import AppError


@dataclass
class NamingBackend:
    """Loads an adapter at its first question, slowly; may be told to fail for one."""

    load_s: float = 0.0
    answer_s: float = 0.0
    errors: dict[str, AppError] = field(default_factory=dict)
    """By adapter checksum."""
    held: asyncio.Event | None = None
    """What questions of the adapter `held_checksum` wait for."""
    held_checksum: str | None = None
    loaded: set[str | None] = field(default_factory=set)
    cold: list[tuple[str, ...]] = field(default_factory=list)
    """Questions that found their adapter not loaded."""
    answered: list[str | None] = field(default_factory=list)

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        """Returns one result a question, in order."""
        checksum = request.adapter_checksum
        if checksum in self.errors:
            raise self.errors[checksum]
        if checksum not in self.loaded:
            self.cold.append(request.questions)
            await asyncio.sleep(self.load_s)
            self.loaded.add(checksum)
        if self.held is not None and checksum == self.held_checksum:
            await self.held.wait()
        await asyncio.sleep(self.answer_s)
        self.answered.extend(checksum for _ in request.questions)
        code = ConfidentCode(f"版本_{checksum}", 0.9, True)
        return [AnswerResult(Candidate((code,), 0.9), (), 1, 1) for _ in request.questions]

    async def health(self) -> str | None:
        """Always ready."""
        return None

    async def find_pause(self) -> str | None:
        """Never pauses."""
        return None

    async def close(self) -> None:
        """Holds nothing."""


def away() -> AnswererUnavailable:
    """Returns what an answerer that is not there raises."""
    return AnswererUnavailable("The answerer does not answer.")
