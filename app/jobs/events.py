"""A job's story: events in order, without gaps."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.clock import db_now
from app.jobs.models import Job, JobEvent


def append(
    session: Session, job_id: str, message: str, *, level: str = "info", type: str = "message", data: dict[str, Any] | None = None
) -> None:
    """Adds an event; the job's row lock, taken by counting, keeps two writers apart."""
    number = session.scalar(
        update(Job)
        .where(Job.id == job_id)
        .values(event_count=Job.event_count + 1)
        .returning(Job.event_count)
        .execution_options(synchronize_session=False)
    )
    if number is None:
        return
    now = session.scalar(select(db_now())) or 0.0
    session.add(JobEvent(job_id=job_id, number=number, created_at=now, level=level, type=type, message=message, data=data))
    session.flush()


def list_newest_first(session: Session, job_id: str, *, before_number: int | None, limit: int) -> tuple[list[JobEvent], bool]:
    """Returns a page of events older than `before_number`, and whether more follow."""
    query = select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.number.desc())
    if before_number is not None:
        query = query.where(JobEvent.number < before_number)
    rows = list(session.scalars(query.limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def list_metrics(session: Session, job_id: str, *, limit: int) -> list[dict[str, Any]]:
    """Returns the data of a job's newest metrics, at most `limit`, the oldest first: progress and scores of epochs."""
    query = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.type == "metrics")
    return [data for data in session.scalars(query.order_by(JobEvent.number.desc()).limit(limit)) if data is not None][::-1]
