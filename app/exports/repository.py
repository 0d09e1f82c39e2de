"""Queries over exports."""

from sqlalchemy.orm import Session

from app.exports.models import Export
from app.jobs import orders
from app.jobs.models import Job


def get(session: Session, export_id: str) -> Export:
    """Returns an export.

    Raises:
        NotFound: no such export.
    """
    return orders.get(session, Export, export_id)


def of_job(session: Session, job_id: str) -> Export:
    """Returns the export that a job writes."""
    return orders.of_job(session, Export, job_id)


def job_of(session: Session, export: Export) -> Job:
    """Returns the job that writes an export, as the database holds it now."""
    return orders.job_of(session, export)


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[list[tuple[Export, Job]], bool]:
    """Returns a page of exports, newest first, each with its job, and whether more follow."""
    return orders.list_page(session, Export, after=after, limit=limit)
