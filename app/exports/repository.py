"""Queries over exports."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.paging import page
from app.errors import NotFound
from app.exports.models import Export
from app.jobs.models import Job


def get(session: Session, export_id: str) -> Export:
    """Returns an export.

    Raises:
        NotFound: no such export.
    """
    export = session.get(Export, export_id)
    if export is None:
        raise NotFound(f"There is no export {export_id!r}. List them with GET /v1/exports.")
    return export


def of_job(session: Session, job_id: str) -> Export:
    """Returns the export that a job writes."""
    return session.scalars(select(Export).where(Export.job_id == job_id)).one()


def job_of(session: Session, export: Export) -> Job:
    """Returns the job that writes an export, as the database holds it now."""
    return session.get_one(Job, export.job_id, populate_existing=True)


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[list[Export], bool]:
    """Returns a page of exports, newest first, and whether more follow."""
    return page(session, select(Export), Export, after=after, limit=limit)
