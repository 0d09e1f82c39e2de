"""What a job on a model carries out, kept in a row of its own: an evaluation, an export. Its status is its job's."""

from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.base import Base
from app.db.paging import page
from app.errors import Conflict, NotFound
from app.jobs import idempotency, repository
from app.jobs.models import Job
from app.jobs.states import TERMINAL

Order = TypeVar("Order", bound=Base)
"""A table with `id`, `job_id` and `created_at`."""


def get(session: Session, table: type[Order], order_id: str) -> Order:
    """Returns an evaluation or export.

    Raises:
        NotFound: no such one.
    """
    order = session.get(table, order_id)
    if order is None:
        plural = table.__tablename__
        raise NotFound(f"There is no {plural[:-1]} {order_id!r}. List them with GET /v1/{plural}.")
    return order


def of_job(session: Session, table: type[Order], job_id: str) -> Order:
    """Returns what a job carries out."""
    columns: Any = table
    return session.scalars(select(table).where(columns.job_id == job_id)).one()


def job_of(session: Session, order: Any) -> Job:
    """Returns the job that carries something out, as the database holds it now."""
    return session.get_one(Job, order.job_id, populate_existing=True)


def lock_ended(session: Session, order: Any) -> Job:
    """Returns the job of what is to be deleted, locked: a worker that finishes now does so before this look, or finds it gone.

    Raises:
        Conflict: it has not ended.
    """
    job = repository.get(session, order.job_id, for_update=True)
    if job.status not in TERMINAL:
        noun = order.__tablename__[:-1].capitalize()
        raise Conflict(f"{noun} {order.id!r} is {job.status}. Cancel it first, or wait for its end.")
    session.refresh(order)
    return job


def delete(session: Session, order: Any, job: Job) -> None:
    """Removes an evaluation or export with all that is its own: its rows, its job and the job's story, its idempotency key."""
    idempotency.forget(session, order)
    session.delete(order)
    session.flush()
    session.delete(job)
    session.flush()


def list_page(session: Session, table: type[Order], *, after: str | None, limit: int) -> tuple[list[tuple[Order, Job]], bool]:
    """Returns a page, newest first, each with its job, and whether more follow."""
    rows, has_more = page(session, select(table), table, after=after, limit=limit)
    named: list[Any] = list(rows)
    jobs = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_([row.job_id for row in named])))}
    return [(row, jobs[job_id]) for row, job_id in zip(rows, [row.job_id for row in named], strict=True)], has_more
