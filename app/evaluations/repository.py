"""Queries over evaluations."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db.paging import page
from app.errors import NotFound
from app.evaluations.models import Evaluation
from app.jobs.models import Job


def get(session: Session, evaluation_id: str) -> Evaluation:
    """Returns an evaluation.

    Raises:
        NotFound: no such evaluation.
    """
    evaluation = session.get(Evaluation, evaluation_id)
    if evaluation is None:
        raise NotFound(f"There is no evaluation {evaluation_id!r}. List them with GET /v1/evaluations.")
    return evaluation


def of_job(session: Session, job_id: str) -> Evaluation:
    """Returns the evaluation that a job runs."""
    return session.scalars(select(Evaluation).where(Evaluation.job_id == job_id)).one()


def job_of(session: Session, evaluation: Evaluation) -> Job:
    """Returns the job that runs an evaluation, as the database holds it now."""
    return session.get_one(Job, evaluation.job_id, populate_existing=True)


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[list[Evaluation], bool]:
    """Returns a page of evaluations, newest first, and whether more follow."""
    return page(session, select(Evaluation), Evaluation, after=after, limit=limit)


def find_succeeded(session: Session, *, adapter_id: str, file_id: str) -> Evaluation | None:
    """Returns the newest evaluation of an adapter on a file that has rows, or None."""
    query = _of_adapter_on(adapter_id, file_id).where(Evaluation.rows_key.is_not(None))
    return session.scalars(query).first()


def find_unfinished(session: Session, *, adapter_id: str, file_id: str) -> Evaluation | None:
    """Returns the newest evaluation of an adapter on a file that waits or runs, or None."""
    query = _of_adapter_on(adapter_id, file_id).where(Job.finished_at.is_(None))
    return session.scalars(query).first()


def _of_adapter_on(adapter_id: str, file_id: str) -> Select[Evaluation]:
    query = select(Evaluation).join(Job, Job.id == Evaluation.job_id)
    query = query.where(Job.adapter_id == adapter_id, Evaluation.file_id == file_id)
    return query.order_by(Evaluation.created_at.desc(), Evaluation.id.desc()).limit(1)
