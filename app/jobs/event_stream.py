"""A job's events as server-sent events: replayed after `Last-Event-ID`, then live, until the job has ended.

A stream pins no database connection: it looks once a second, and streams of one job share the look.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from anyio.to_thread import run_sync
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db.unit_of_work import read_only
from app.errors import AppError, Kind
from app.http.errors import error_response
from app.jobs.models import Job, JobEvent
from app.jobs.schemas import EventObject
from app.jobs.states import TERMINAL, JobStatus

_LOOK_S = 1.0
_PING_S = 15.0
_BATCH = 200
# The numbers of a job's events are the ids of the stream.
DONE = format_sse_event(data_str="[DONE]")
_KEY_ENDED = format_sse_event(
    event="error",
    data_str=bytes(
        error_response(401, "The API key of this stream was revoked or its time is over.", code="invalid_api_key").body
    ).decode(),
)


class TooManyStreams(AppError):
    """The process holds as many event streams as it may."""

    kind = Kind.UNAVAILABLE
    code = "too_many_streams"
    retryable = True


@dataclass(frozen=True)
class _Pulse:
    """What a look at a job's row saw."""

    looked_at: float
    event_count: int
    has_ended: bool


class EventStreams:
    """All event streams of one process."""

    def __init__(self, engine: Engine, *, max_streams: int) -> None:
        self._engine = engine
        self._max_streams = max_streams
        self._open = 0
        self._pulses: dict[str, _Pulse] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def admit(self) -> None:
        """Refuses a stream too many, before its response has begun.

        Raises:
            TooManyStreams: the limit is reached.
        """
        if self._open >= self._max_streams:
            raise TooManyStreams(f"{self._max_streams} event streams are open already. Poll the events instead.")

    async def follow(self, job_id: str, *, after: int, is_let_in: Callable[[], bool] = lambda: True) -> AsyncIterator[bytes]:
        """Yields every event with a number above `after`, in order and without gaps, then `[DONE]`.

        Once `is_let_in` says no, within a second: an `error` and the end.
        """
        self._open += 1
        last, spoke = after, time.monotonic()
        try:
            while True:
                if not is_let_in():
                    yield _KEY_ENDED
                    return
                pulse = await self._look(job_id)
                while last < pulse.event_count:
                    for event in await run_sync(self._read, job_id, last):
                        last = event.number
                        body = EventObject.of(event).model_dump_json()
                        yield format_sse_event(data_str=body, id=str(last))
                    spoke = time.monotonic()
                if pulse.has_ended:
                    yield DONE
                    return
                if time.monotonic() - spoke > _PING_S:
                    spoke = time.monotonic()
                    yield KEEPALIVE_COMMENT
                await asyncio.sleep(_LOOK_S)
        finally:
            self._open -= 1
            if self._open == 0:
                self._pulses.clear()
                self._locks.clear()

    async def _look(self, job_id: str) -> _Pulse:
        async with self._locks.setdefault(job_id, asyncio.Lock()):
            known = self._pulses.get(job_id)
            if known is None or time.monotonic() - known.looked_at > _LOOK_S / 2:
                known = await run_sync(self._see, job_id)
                self._pulses[job_id] = known
            return known

    def _see(self, job_id: str) -> _Pulse:
        with read_only(self._engine) as session:
            row = session.execute(select(Job.event_count, Job.status).where(Job.id == job_id)).one_or_none()
        if row is None:
            return _Pulse(time.monotonic(), 0, True)
        return _Pulse(time.monotonic(), row.event_count, JobStatus(row.status) in TERMINAL)

    def _read(self, job_id: str, after: int) -> list[JobEvent]:
        with read_only(self._engine) as session:
            return _events_after(session, job_id, after)


def _events_after(session: Session, job_id: str, number: int) -> list[JobEvent]:
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.number > number)
    return list(session.scalars(query.order_by(JobEvent.number).limit(_BATCH)))
