"""The answer log: answers leave an entry in memory, a task of the api writes them in batches, and no answer waits for it."""

import asyncio
import contextlib
import hmac
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Literal

import structlog
from anyio.to_thread import run_sync
from prometheus_client import Counter
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.answers import repository
from app.db.unit_of_work import unit_of_work

AnswerLogContent = Literal["hash", "text"]

_MAX_WAITING = 20_000
_BATCH_ROWS = 500
_INTERVAL_S = 0.5
_CLOSING_S = 5.0
_DELETED_AT_ONCE = 1000
_DELETIONS_PER_ROUND = 20

_log = structlog.get_logger()
_LOST = Counter("dianda_answer_log_lost_total", "Answers that were given but are not in the log: its queue was full, or closed.")


@dataclass(frozen=True)
class LogEntry:
    """A row of the log."""

    id: str
    created_at: float
    model: str
    adapter_id: str | None
    question: str | None
    question_hash: str | None
    answer: str
    confidence: float
    fallback_reason: str | None
    latency_ms: float


class AnswerLog:
    """Writes entries in the background. A database that is away delays them; a full queue loses the newest, and counts them."""

    def __init__(self, engine: Engine, content: AnswerLogContent, *, key: bytes, max_waiting: int = _MAX_WAITING) -> None:
        self._engine = engine
        self._content = content
        self._key = key
        self._max_waiting = max_waiting
        self._waiting: deque[LogEntry] = deque()

    def add(
        self,
        question: str,
        *,
        answer_id: str,
        model: str,
        adapter_id: str | None,
        answer: str,
        confidence: float,
        fallback_reason: str | None,
        latency_ms: float,
    ) -> None:
        """Remembers an answer; it is in the database within about a second."""
        if len(self._waiting) >= self._max_waiting:
            _LOST.inc()
            return
        is_text = self._content == "text"
        self._waiting.append(
            LogEntry(
                answer_id,
                time.time(),
                model,
                adapter_id,
                question if is_text else None,
                None if is_text else hmac.digest(self._key, question.encode(), "sha256").hex(),
                answer,
                confidence,
                fallback_reason,
                latency_ms,
            )
        )

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Writes while the block runs, and at its end what waits, unless the database does not take it within seconds."""
        closing = asyncio.Event()
        writer = asyncio.create_task(self._write_until(closing))
        try:
            yield
        finally:
            closing.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(writer, _CLOSING_S)
            _LOST.inc(len(self._waiting))
            self._waiting.clear()

    async def _write_until(self, closing: asyncio.Event) -> None:
        while not closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), _INTERVAL_S)
            await self._write_all()

    async def _write_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH_ROWS, len(self._waiting)))]
            try:
                await run_sync(self._write, batch)
            except (OperationalError, PoolTimeout) as error:
                # The next round writes what a lost connection stopped.
                self._waiting.extendleft(reversed(batch))
                _log.warning("answer_log_waits", waiting=len(self._waiting), error=type(error).__name__)
                return
            except Exception:
                # A row that no database takes must not stop all that come after it.
                _log.exception("answer_log_batch_lost", rows=len(batch))
                _LOST.inc(len(batch))

    def _write(self, batch: list[LogEntry]) -> None:
        with unit_of_work(self._engine) as session:
            repository.add_all(session, [asdict(entry) for entry in batch])


def delete_old_answers(engine: Engine, *, days: float) -> int:
    """Deletes answers older than `days`, a bounded number in short transactions; returns how many."""
    total = 0
    for _ in range(_DELETIONS_PER_ROUND):
        with unit_of_work(engine) as session:
            deleted = repository.delete_older(session, days=days, limit=_DELETED_AT_ONCE)
        total += deleted
        if deleted < _DELETED_AT_ONCE:
            break
    return total
