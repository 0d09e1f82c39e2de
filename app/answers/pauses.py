"""Tells who waits for an answer while the card trains which job it is, and when that will be over."""

import time
from dataclasses import dataclass

from anyio.to_thread import run_sync
from sqlalchemy import Engine

from app.answers.backend import ServingPaused
from app.db.unit_of_work import read_only
from app.jobs import repository

_LOOKED_AT_EVERY_S = 2.0
# Where the job cannot say yet: it loads, or its first step runs.
_UNKNOWN_S = 30.0
# After the job's end the base model comes back to the card.
_LOADING_S = 5.0
_LONGEST_S = 3600.0


@dataclass(frozen=True)
class RunningJob:
    """A job on the card."""

    id: str
    seconds_remaining: float | None


class Pauses:
    """Reads the running job at most every two seconds, however many questions are refused meanwhile."""

    def __init__(self, engine: Engine) -> None:
        """Has not looked yet."""
        self._engine = engine
        self._looked_at = float("-inf")
        self._job: RunningJob | None = None

    async def explained(self, pause: ServingPaused) -> ServingPaused:
        """Returns a refusal with the job and the seconds after which asking again makes sense."""
        job = await self.running_job()
        if job is None:
            pause.retry_after_s = _LOADING_S
            return pause
        remaining = job.seconds_remaining
        when = "" if remaining is None else f", in about {_duration(remaining)}"
        explained = ServingPaused(
            f"The card trains job {job.id}: answers pause until it ends{when}. Ask again then.",
            details={"job_id": job.id, "seconds_remaining": None if remaining is None else round(remaining)},
        )
        explained.retry_after_s = _UNKNOWN_S if remaining is None else min(_LONGEST_S, remaining + _LOADING_S)
        return explained

    async def running_job(self) -> RunningJob | None:
        """Returns the running job that will take longest, or None."""
        if time.monotonic() - self._looked_at > _LOOKED_AT_EVERY_S:
            self._looked_at = time.monotonic()
            self._job = await run_sync(self._read)
        return self._job

    def _read(self) -> RunningJob | None:
        with read_only(self._engine) as session:
            jobs = [RunningJob(job.id, (job.progress or {}).get("seconds_remaining")) for job in repository.running(session)]
        return max(jobs, key=lambda job: job.seconds_remaining or 0.0, default=None)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
