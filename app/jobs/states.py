"""The states of a job, the table of moves, and the only function that writes a status."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from app.db.clock import db_now
from app.jobs import events
from app.jobs.models import Job


class JobStatus(StrEnum):
    """OpenAI's states, and three of ours: paused, interrupted, and succeeded's opposite is split.

    `failed`: the work cannot succeed as asked. `interrupted`: the machine's fault; it resumes by itself.
    """

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class JobWish(StrEnum):
    """What a user wants of a running job; its worker reads it at every heartbeat."""

    NONE = "none"
    PAUSE = "pause"
    CANCEL = "cancel"


_S = JobStatus
MOVES: Mapping[JobStatus, frozenset[JobStatus]] = {
    _S.VALIDATING_FILES: frozenset({_S.QUEUED, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.PAUSED, _S.INTERRUPTED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLED}),
    _S.INTERRUPTED: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELLED, _S.FAILED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
TERMINAL = frozenset(status for status, targets in MOVES.items() if not targets)
CLAIMABLE = frozenset(status for status, targets in MOVES.items() if _S.RUNNING in targets)


def sources_of(target: JobStatus) -> frozenset[JobStatus]:
    """Returns the states from which a job may move to `target`."""
    return frozenset(status for status, targets in MOVES.items() if target in targets)


def move(
    session: Session,
    job_id: str,
    to: JobStatus,
    *,
    message: str,
    fence: int | None = None,
    only_if: ColumnElement[bool] | None = None,
    values: Mapping[str, Any] | None = None,
    level: str = "info",
) -> bool:
    """Moves a job by one `UPDATE … WHERE` and tells its story; False where its state, fence or condition forbids it.

    A move out of `running` gives the lease back and drops the wish; a move to a terminal state stamps `finished_at`.
    """
    changes: dict[str, Any] = {"status": to.value, **(values or {})}
    if to is not JobStatus.RUNNING:
        changes.update(lease_owner=None, lease_until=None, wish=JobWish.NONE.value)
    if to in TERMINAL:
        changes["finished_at"] = db_now()
    statement = update(Job).where(Job.id == job_id, Job.status.in_([status.value for status in sources_of(to)]))
    if fence is not None:
        # A fence is a lease's: once its job has left `running`, that worker decides nothing more, though no other has claimed.
        statement = statement.where(Job.fence == fence, Job.status == JobStatus.RUNNING.value)
    if only_if is not None:
        statement = statement.where(only_if)
    result = session.execute(statement.values(**changes).execution_options(synchronize_session=False))
    if result.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE gives a CursorResult
        return False
    events.append(session, job_id, message, level=level, data={"status": to.value})
    return True
