"""The answer log: answers leave an entry in memory, a task of the api writes them in batches, and no answer waits for it."""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from prometheus_client import Counter, Gauge
from sqlalchemy import Engine

from app.answers import repository
from app.answers.schemas import AnswerObject
from app.db.outage import DATABASE_AWAY
from app.db.unit_of_work import unit_of_work
from app.ml.codes import AnswerMode

KeptQuestions = Literal["text", "hash", "off"]
"""What the log keeps of a question: its text, its SHA-256, or nothing."""

_MAX_WAITING = 10_000
_BATCH_ROWS = 500
_BATCHES_A_TURN = 20
_INTERVAL_S = 0.5
_LONGEST_PAUSE_S = 8.0
_CLOSING_S = 5.0

_log = structlog.get_logger()
_LOST = Counter("dianda_answer_log_lost_total", "Answers that were given but are not in the answer log.")
_WAITING = Gauge("dianda_answer_log_waiting", "Answers that wait to be written to the answer log.")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An answer that was given; the row is made of it later, in the writer's thread."""

    created_at: float
    question: str
    answer: AnswerObject
    adapter_checksum: str | None
    mode: AnswerMode


class AnswerLog:
    """Writes entries in the background; a database that is away delays them, and a full queue loses the newest, counted."""

    def __init__(self, engine: Engine, questions: KeptQuestions, *, max_waiting: int = _MAX_WAITING) -> None:
        self._engine = engine
        self._questions = questions
        self._max_waiting = max_waiting
        self._waiting: deque[LogEntry] = deque()
        self._lost = 0

    def add(
        self,
        question: str,
        answer: AnswerObject,
        *,
        adapter_checksum: str | None,
        mode: AnswerMode,
    ) -> None:
        """Remembers an answer; it is in the database about a second later."""
        if len(self._waiting) >= self._max_waiting:
            self._lose(1)
            return
        self._waiting.append(LogEntry(time.time(), question, answer, adapter_checksum, mode))

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Writes while the block runs, and at its end what waits, unless the database does not take it within 5 seconds."""
        closing = asyncio.Event()
        writer = asyncio.create_task(self._write_until(closing))
        try:
            yield
        finally:
            closing.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(writer, _CLOSING_S)
            self._lose(len(self._waiting))
            self._waiting.clear()
            self._report_lost()

    async def write_waiting(self, limiter: CapacityLimiter | None = None) -> bool:
        """Writes what waits and returns whether the database took it; `limiter` bounds the threads."""
        while self._waiting:
            in_hand: list[LogEntry] = []
            go_on = threading.Event()
            go_on.set()
            try:
                is_taken, lost = await run_sync(self._write_batches, in_hand, go_on, limiter=limiter, abandon_on_cancel=True)
            except asyncio.CancelledError:
                go_on.clear()
                self._waiting.extendleft(reversed(in_hand))
                raise
            self._lose(lost)
            if not is_taken:
                return False
        return True

    def _write_batches(self, in_hand: list[LogEntry], go_on: threading.Event) -> tuple[bool, int]:
        # Several a turn: a busy loop takes tens of milliseconds to hand over the next, and then more come in than are written.
        lost = 0
        for _ in range(_BATCHES_A_TURN):
            if not self._waiting or not go_on.is_set():
                break
            in_hand[:] = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH_ROWS))]
            try:
                self._write(in_hand)
            except DATABASE_AWAY as error:
                if go_on.is_set():
                    self._waiting.extendleft(reversed(in_hand))
                    _log.warning("answer_log_waits", waiting=len(self._waiting), error=type(error).__name__)
                in_hand.clear()
                return False, lost
            except Exception as error:
                # Its text would quote the rows. A row that no database takes must not stop all that come after it.
                _log.error("answer_log_batch_lost", rows=len(in_hand), error=type(error).__name__)
                lost += len(in_hand)
            in_hand.clear()
        return True, lost

    async def _write_until(self, closing: asyncio.Event) -> None:
        # A thread of its own: forty endpoints that wait for the database must not keep the log from its turn.
        limiter = CapacityLimiter(1)
        pause_s = _INTERVAL_S
        is_last = False
        while not is_last:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), pause_s)
            is_last = closing.is_set()
            is_written = await self.write_waiting(limiter)
            pause_s = _INTERVAL_S if is_written else min(2 * pause_s, _LONGEST_PAUSE_S)
            _WAITING.set(len(self._waiting))
            self._report_lost()

    def _write(self, batch: Sequence[LogEntry]) -> None:
        rows = [self._row(entry) for entry in batch]
        with unit_of_work(self._engine) as session:
            repository.add_all(session, rows)

    def _row(self, entry: LogEntry) -> dict[str, Any]:
        answer = entry.answer
        question = _storable(entry.question)
        return {
            "id": answer.id,
            "created_at": entry.created_at,
            "model": _storable(answer.model),
            "adapter_id": answer.adapter,
            "adapter_checksum": entry.adapter_checksum,
            "question": question if self._questions == "text" else None,
            "question_sha256": hashlib.sha256(question.encode()).hexdigest() if self._questions == "hash" else None,
            "answer": _storable(answer.answer),
            "codes": [
                {"code": _storable(code.code), "confidence": code.confidence, "in_vocabulary": code.in_vocabulary}
                for code in answer.codes
            ],
            "confidence": answer.confidence,
            "is_calibrated": answer.calibrated,
            "alternatives": [
                {"answer": _storable(other.answer), "confidence": other.confidence} for other in answer.alternatives
            ],
            "fallback_reason": answer.fallback.reason,
            "mode": entry.mode,
            "latency_ms": answer.latency_ms,
            "passes": answer.passes,
            "variant": answer.variant,
        }

    def _lose(self, entries: int) -> None:
        self._lost += entries
        _LOST.inc(entries)

    def _report_lost(self) -> None:
        if self._lost:
            # A line a round, not one an answer: a log that cannot keep up is no reason for another that cannot.
            _log.error("answer_log_lost", answers=self._lost)
            self._lost = 0


def _storable(text: str) -> str:
    # A model that writes freely may write what PostgreSQL refuses: NUL, or half a surrogate pair.
    return text.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
