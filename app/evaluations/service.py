"""What may be done with evaluations."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.adapters.service import resolve
from app.evaluations import repository
from app.evaluations.models import Evaluation
from app.ids import new_id
from app.jobs import service as jobs
from app.jobs.leases import Lease
from app.jobs.queue import Doorbell
from app.jobs.states import JobStatus, move
from app.ml.model_store import ModelStore


def create(
    session: Session,
    *,
    model: str,
    file_id: str,
    max_rows: int | None,
    store: ModelStore,
    bell: Doorbell,
    max_unfinished: int,
) -> Evaluation:
    """Queues an evaluation of what `model` stands for now; a later move of an alias does not touch it.

    Raises:
        NotFound: no such model or file.
        QueueFull: the queue's limit is reached.
    """
    resolved = resolve(session, model, store)
    job = jobs.create_evaluation(
        session,
        base_model=resolved.base_model,
        adapter_id=resolved.adapter_id,
        file_id=file_id,
        spec={"version": 1, "adapter_checksum": resolved.adapter_checksum, "max_rows": max_rows},
        store=store,
        bell=bell,
        max_unfinished=max_unfinished,
    )
    evaluation = Evaluation(
        id=new_id("eval"),
        job_id=job.id,
        model=model,
        file_id=file_id,
        metrics=None,
        rows_key=None,
        created_at=job.created_at,
    )
    session.add(evaluation)
    session.flush()
    return evaluation


def finish(session: Session, lease: Lease, *, metrics: Mapping[str, Any], rows_key: str) -> bool:
    """Ends an evaluation with its metrics in one transaction. False if fenced: then nothing is published."""
    if not move(
        session,
        lease.job_id,
        JobStatus.SUCCEEDED,
        message="The evaluation has succeeded.",
        fence=lease.fence,
        values={"metrics": dict(metrics)},
    ):
        return False
    evaluation = repository.of_job(session, lease.job_id)
    evaluation.metrics, evaluation.rows_key = dict(metrics), rows_key
    return True
