"""Queries over evaluations and their rows."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from app.evaluations.models import Evaluation, EvaluationRow
from app.jobs import orders
from app.jobs.models import Job
from app.jobs.states import JobStatus
from app.ml.evaluated_rows import EvaluatedRow


def get(session: Session, evaluation_id: str) -> Evaluation:
    """Returns an evaluation.

    Raises:
        NotFound: no such evaluation.
    """
    return orders.get(session, Evaluation, evaluation_id)


def of_job(session: Session, job_id: str) -> Evaluation:
    """Returns the evaluation that a job runs."""
    return orders.of_job(session, Evaluation, job_id)


def job_of(session: Session, evaluation: Evaluation) -> Job:
    """Returns the job that runs an evaluation, as the database holds it now."""
    return orders.job_of(session, evaluation)


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[list[tuple[Evaluation, Job]], bool]:
    """Returns a page of evaluations, newest first, each with its job, and whether more follow."""
    return orders.list_page(session, Evaluation, after=after, limit=limit)


def add_rows(session: Session, evaluation: Evaluation, rows: Sequence[EvaluatedRow]) -> None:
    """Stores answered rows."""
    session.add_all(
        EvaluationRow(evaluation_id=evaluation.id, row=one.row, is_right=one.is_right, data=one.to_mapping()) for one in rows
    )
    session.flush()


def answered_rows(session: Session, evaluation_id: str) -> list[EvaluatedRow]:
    """Returns every row answered so far, in the file's order."""
    query = select(EvaluationRow.data).where(EvaluationRow.evaluation_id == evaluation_id).order_by(EvaluationRow.row)
    return [EvaluatedRow.from_mapping(data) for data in session.scalars(query)]


def page_rows(
    session: Session, evaluation_id: str, *, after_row: int, is_right: bool | None, limit: int
) -> tuple[list[EvaluatedRow], bool]:
    """Returns up to `limit` rows behind row `after_row` of the file, and whether more follow."""
    query = select(EvaluationRow.data).where(EvaluationRow.evaluation_id == evaluation_id, EvaluationRow.row > after_row)
    if is_right is not None:
        query = query.where(EvaluationRow.is_right == is_right)
    found = [EvaluatedRow.from_mapping(data) for data in session.scalars(query.order_by(EvaluationRow.row).limit(limit + 1))]
    return found[:limit], len(found) > limit


def find_succeeded(session: Session, *, adapter_id: str, file_id: str) -> Evaluation | None:
    """Returns the newest comparable evaluation of an adapter on a file that has answered all its rows, or None."""
    query = _of_adapter_on(adapter_id, file_id).where(Job.status == JobStatus.SUCCEEDED)
    return session.scalars(query).first()


def find_unfinished(session: Session, *, adapter_id: str, file_id: str) -> Evaluation | None:
    """Returns the newest comparable evaluation of an adapter on a file that waits or runs, or None."""
    query = _of_adapter_on(adapter_id, file_id).where(Job.finished_at.is_(None))
    return session.scalars(query).first()


def is_comparable() -> ColumnElement[bool]:
    """Holds for jobs of evaluations that gave the likeliest answers, as all did before there was a `decide_by`."""
    return func.coalesce(Job.spec["decide_by"].as_string(), "answer") == "answer"


def scores_of(session: Session, evaluation_id: str) -> dict[int, tuple[bool, float]]:
    """Returns of every row, by its number, whether it is right, and its set F1."""
    set_f1 = EvaluationRow.data["set_f1"].as_float()
    rows = session.execute(
        select(EvaluationRow.row, EvaluationRow.is_right, set_f1).where(EvaluationRow.evaluation_id == evaluation_id)
    )
    return {row: (is_right, float(f1)) for row, is_right, f1 in rows}


def _of_adapter_on(adapter_id: str, file_id: str) -> Select[Evaluation]:
    query = select(Evaluation).join(Job, Job.id == Evaluation.job_id)
    query = query.where(Job.adapter_id == adapter_id, Evaluation.file_id == file_id, is_comparable())
    return query.order_by(Evaluation.created_at.desc(), Evaluation.id.desc()).limit(1)
