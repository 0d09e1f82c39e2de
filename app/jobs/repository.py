"""Queries over jobs, checkpoints and workers."""

from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.clock import db_now
from app.db.paging import page
from app.errors import NotFound
from app.jobs.models import Checkpoint, Job, Worker
from app.jobs.states import CLAIMABLE, TERMINAL, JobStatus
from app.ml.best_epoch import find_best

FINETUNE = "finetune"
EVALUATION = "evaluation"
EXPORT = "export"
_TERMINAL_VALUES = [status.value for status in TERMINAL]


def now(session: Session) -> float:
    """Returns the database's time."""
    return session.scalar(select(db_now())) or 0.0


def get(session: Session, job_id: str, *, kind: str | None = None, for_update: bool = False) -> Job:
    """Returns a job as the database holds it now.

    Raises:
        NotFound: no such job of that kind.
    """
    job = session.get(Job, job_id, populate_existing=True, with_for_update=True if for_update else None)
    if job is None or (kind is not None and job.kind != kind):
        raise NotFound(f"There is no job {job_id!r}. List the jobs with GET /v1/fine_tuning/jobs.")
    return job


def list_page(session: Session, *, kind: str, after: str | None, limit: int, metadata: dict[str, str]) -> tuple[list[Job], bool]:
    """Returns a page of jobs, newest first, and whether more follow; `metadata` pairs must all be there."""
    query = select(Job).where(Job.kind == kind)
    for key, value in metadata.items():
        query = query.where(_has_metadata(session, key, value))
    return page(session, query, Job, after=after, limit=limit)


def _has_metadata(session: Session, key: str, value: str) -> ColumnElement[bool]:
    if session.get_bind().dialect.name == "postgresql":
        equal: ColumnElement[bool] = Job.user_metadata[key].as_string() == value
        return equal
    # SQLite's JSON paths know no escape for a quote, and compare letters beyond ASCII with their \u form.
    pair = func.json_each(Job.user_metadata).table_valued("key", "value")
    return exists(select(1).select_from(pair).where(pair.c.key == key, pair.c.value == value).correlate(Job))


def unfinished_count(session: Session) -> int:
    """Returns how many jobs are not in a terminal state."""
    return session.scalar(select(func.count()).where(Job.status.not_in(_TERMINAL_VALUES))) or 0


def running(session: Session) -> list[Job]:
    """Returns the jobs that a worker works on."""
    return list(session.scalars(select(Job).where(Job.status == JobStatus.RUNNING.value).order_by(Job.created_at)))


def count_by_status(session: Session) -> dict[str, int]:
    """Returns the number of jobs in each status."""
    rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
    return {status: count for status, count in rows}  # noqa: C416  # a Result has keys(), so dict() takes it for a mapping


def queue_position(session: Session, job: Job) -> int | None:
    """Returns how many jobs stand before this one, from 0; None where it does not wait."""
    waiting = [status.value for status in CLAIMABLE]
    if job.status not in waiting:
        return None
    return session.scalar(
        select(func.count()).where(
            Job.status.in_(waiting),
            or_(Job.created_at < job.created_at, (Job.created_at == job.created_at) & (Job.id < job.id)),
        )
    )


def find_unfinished_user_of_file(session: Session, file_id: str) -> str | None:
    """Returns the id of an unfinished job that needs a file, or None."""
    job_id = session.scalar(
        select(Job.id)
        .where(or_(Job.training_file_id == file_id, Job.validation_file_id == file_id), Job.status.not_in(_TERMINAL_VALUES))
        .limit(1)
    )
    return f"job {job_id!r}" if job_id else None


def find_unfinished_user_of_adapter(session: Session, adapter_id: str) -> str | None:
    """Returns the unfinished evaluation or export of an adapter, or the training that learns from it, by its id; or None."""
    found = session.execute(
        select(Job.kind, Job.id).where(Job.adapter_id == adapter_id, Job.status.not_in(_TERMINAL_VALUES)).limit(1)
    ).first()
    if found is not None:
        return f"{found.kind} job {found.id!r}"
    trainings = session.execute(select(Job.id, Job.spec).where(Job.kind == FINETUNE, Job.status.not_in(_TERMINAL_VALUES)))
    learner = next((job_id for job_id, spec in trainings if adapter_id in spec.get("distill_from", ())), None)
    return f"job {learner!r}" if learner else None


def update_fenced(session: Session, job_id: str, fence: int, values: dict[str, Any]) -> bool:
    """Writes what a worker found out; False where another claim has come since."""
    result = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.fence == fence, Job.status == "running")
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    return bool(result.rowcount == 1)  # type: ignore[attr-defined]


def checkpoints_newest_first(session: Session, job_id: str) -> list[Checkpoint]:
    """Returns a job's checkpoints, the latest step first."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc())))


def get_checkpoint(session: Session, checkpoint_id: str) -> Checkpoint:
    """Returns a checkpoint.

    Raises:
        NotFound: no such one, or newer ones have taken its place.
    """
    checkpoint = session.get(Checkpoint, checkpoint_id)
    if checkpoint is None:
        raise NotFound(
            f"There is no checkpoint {checkpoint_id!r}, or newer ones have taken its place. List a job's checkpoints with "
            "GET /v1/fine_tuning/jobs/{id}/checkpoints.",
            param="model",
        )
    return checkpoint


def best_checkpoint(session: Session, job_id: str) -> Checkpoint | None:
    """Returns the checkpoint whose held-out scores are the best by the job's `metric_for_best_model`, or None."""
    spec = session.scalar(select(Job.spec).where(Job.id == job_id)) or {}
    oldest_first = checkpoints_newest_first(session, job_id)[::-1]
    # A job of before this choice has the default.
    place = find_best([checkpoint.metrics for checkpoint in oldest_first], spec.get("metric_for_best_model", "exact_match"))
    return None if place is None else oldest_first[place]


def superseded_checkpoints(session: Session, job_id: str, *, keep: int) -> list[Checkpoint]:
    """Returns the checkpoints that are neither among the newest `keep` nor the best."""
    best = best_checkpoint(session, job_id)
    return [checkpoint for checkpoint in checkpoints_newest_first(session, job_id)[keep:] if checkpoint is not best]


def extra_codes(session: Session, job_id: str) -> list[str]:
    """Returns the codes that a job's vocabulary gets beside those of its training rows."""
    return session.scalar(select(Job.extra_codes).where(Job.id == job_id)) or []


def say_alive(session: Session, worker_id: str, facts: dict[str, Any]) -> None:
    """Stamps a worker's sign of life."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(Worker).values(id=worker_id, facts=facts, started_at=db_now(), seen_at=db_now())
    session.execute(statement.on_conflict_do_update(index_elements=[Worker.id], set_={"seen_at": db_now(), "facts": facts}))


def live_workers(session: Session, *, within_s: float) -> list[Worker]:
    """Returns the workers that gave a sign of life within so many seconds."""
    return list(session.scalars(select(Worker).where(Worker.seen_at > db_now() - within_s).order_by(Worker.id)))
