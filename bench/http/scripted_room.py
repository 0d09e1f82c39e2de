"""The answerer with a scripted engine in the place of the real one: what remains is HTTP."""

import asyncio
import gc
import os
from collections.abc import Sequence

from fastapi import FastAPI

from app.answerer.main import create_app as create_answerer
from app.answers.backend import Overloaded
from app.ml.codes import AnswerMode, DecideBy
from app.ml.engine.asks import EngineAnswer
from app.ml.engine.decoding import DecodedAnswer
from app.settings import Settings

PASS_MS, WIDTH = "BENCH_HTTP_PASS_MS", "BENCH_HTTP_WIDTH"
_CODES = ("业务简介_111", "9.9", "开通方式_98")
_ANSWER = EngineAnswer(DecodedAnswer(_CODES, (0.98, 0.97, 0.99), 0.94, 17), (), 31, 17, (True, True, True), passes=2)


class ScriptedRoom:
    """Gives one answer to everything; a pass answers up to `width` questions and takes `pass_ms`, 0: no time at all."""

    device = None

    def __init__(self, base_model: str, *, pass_ms: float, width: int, max_pending: int) -> None:
        self.base_model = base_model
        self._pass_s = pass_ms / 1000
        self._width = asyncio.Semaphore(width)
        self._max_pending = max_pending
        self._pending = 0

    def missing(self) -> tuple[str, str] | None:
        """It is always ready."""
        return None

    @property
    def pause(self) -> str | None:
        """Nobody wants its card."""
        return None

    async def suspend(self, holder: str, *, lease_s: float, wait_s: float) -> bool:
        """It holds no card."""
        return True

    def resume(self, holder: str) -> None:
        """It has nothing to take back."""

    def start_loading(self) -> None:
        """There is nothing to load; the real room, too, spares the garbage collector what it has."""
        gc.collect()
        gc.freeze()

    async def answer(
        self,
        questions: Sequence[str],
        *,
        base_model: str,
        checksum: str | None,
        alternatives: int,
        mode: AnswerMode = "closed",
        precision: float | None = None,
        decide_by: DecideBy = "answer",
        deadline_s: float | None = None,
    ) -> list[EngineAnswer]:
        """Answers; refuses what is beyond the bound, as the real room does."""
        if self._pending + len(questions) > self._max_pending:
            raise Overloaded(f"More than {self._max_pending} questions wait. Try again in a moment.")
        self._pending += len(questions)
        try:
            if self._pass_s:
                async with self._width:
                    await asyncio.sleep(self._pass_s)
            return [_ANSWER] * len(questions)
        finally:
            self._pending -= len(questions)

    def close(self) -> None:
        """Holds nothing."""


def create_app() -> FastAPI:
    """Builds the answerer's app with the scripted room that the environment describes."""
    settings = Settings()
    room = ScriptedRoom(
        settings.base_model,
        pass_ms=float(os.environ[PASS_MS]),
        width=int(os.environ[WIDTH]),
        max_pending=settings.max_pending_answers,
    )
    return create_answerer(settings, room=room)
