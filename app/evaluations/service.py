"""What may be done with evaluations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.adapters.service import resolve
from app.errors import Conflict, InvalidInput
from app.evaluations import repository
from app.evaluations.models import Evaluation
from app.ids import new_id
from app.jobs import orders
from app.jobs import repository as job_rows
from app.jobs import service as jobs
from app.jobs.leases import Lease
from app.jobs.queue import Doorbell
from app.jobs.states import JobStatus, move
from app.ml.codes import DecideBy
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.model_store import ModelStore

CHECKPOINT_PREFIX = "ftckpt-"


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What a worker is to do; stored as the job's spec."""

    adapter_checksum: str | None
    """None: the base model alone, or a checkpoint."""
    checkpoint: str | None
    max_rows: int | None
    threshold: float | None
    precision: float | None
    decide_by: DecideBy = "answer"
    version: int = 1

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "EvaluationPlan":
        """Reads a job's spec; those of before had no checkpoint, or not all wishes."""
        return cls(
            adapter_checksum=spec["adapter_checksum"],
            checkpoint=spec.get("checkpoint"),
            max_rows=spec["max_rows"],
            threshold=spec.get("threshold"),
            precision=spec.get("precision"),
            decide_by=spec.get("decide_by", "answer"),
        )


def create(
    session: Session,
    *,
    model: str,
    file_id: str,
    max_rows: int | None,
    store: ModelStore,
    bell: Doorbell,
    max_unfinished: int,
    threshold: float | None = None,
    precision: float | None = None,
    decide_by: DecideBy = "answer",
) -> Evaluation:
    """Queues an evaluation of what `model` stands for now; a later move of an alias does not touch it.

    `model` is a base model, an adapter, an alias, or a checkpoint of a job (`ftckpt-…`).

    Raises:
        NotFound: no such model or file.
        InvalidInput: two wishes do not go together.
        QueueFull: the queue's limit is reached.
    """
    if threshold is not None and precision is not None:
        raise InvalidInput("A precision brings its own threshold. Send one of the two.", param="precision")
    if decide_by != "answer" and precision is not None:
        raise InvalidInput("A precision is promised of the likeliest answer. Leave decide_by out.", param="decide_by")
    checkpoint_id: str | None = None
    if model.startswith(CHECKPOINT_PREFIX):
        checkpoint = job_rows.get_checkpoint(session, model)
        base_model, adapter_id, adapter_checksum = job_rows.get(session, checkpoint.job_id).base_model, None, None
        checkpoint_id = checkpoint.id
    else:
        resolved = resolve(session, model, store)
        base_model, adapter_id, adapter_checksum = resolved.base_model, resolved.adapter_id, resolved.adapter_checksum
    plan = EvaluationPlan(
        adapter_checksum=adapter_checksum,
        checkpoint=checkpoint_id,
        max_rows=max_rows,
        threshold=threshold,
        precision=precision,
        decide_by=decide_by,
    )
    job = jobs.create_on_model(
        session,
        job_rows.EVALUATION,
        base_model=base_model,
        adapter_id=adapter_id,
        file_id=file_id,
        spec=asdict(plan),
        store=store,
        bell=bell,
        max_unfinished=max_unfinished,
    )
    evaluation = Evaluation(
        id=new_id("eval"), job_id=job.id, model=model, file_id=file_id, metrics=None, created_at=job.created_at
    )
    session.add(evaluation)
    session.flush()
    return evaluation


def delete(session: Session, evaluation_id: str, *, users_of: Iterable[Callable[[Session, str], str | None]]) -> Evaluation:
    """Removes an evaluation with its rows and its job, and returns what it was.

    Raises:
        NotFound: no such evaluation.
        Conflict: its job has not ended, or a gate or an experiment needs it; the message names who.
    """
    evaluation = repository.get(session, evaluation_id)
    job = orders.lock_ended(session, evaluation)
    for find_user in users_of:
        if (user := find_user(session, evaluation_id)) is not None:
            raise Conflict(
                f"Evaluation {evaluation_id!r} is in use by {user}. First delete the experiment, or evaluate the gate's adapter "
                "on its file again."
            )
    orders.delete(session, evaluation, job)
    return evaluation


def keep_rows(session: Session, lease: Lease, rows: Sequence[EvaluatedRow]) -> bool:
    """Stores rows as soon as they are answered; the count of attempts starts anew. False if fenced: nothing is stored."""
    if not job_rows.update_fenced(session, lease.job_id, lease.fence, {"attempts": 0}):
        return False
    repository.add_rows(session, repository.of_job(session, lease.job_id), rows)
    return True


def finish(session: Session, lease: Lease, *, metrics: Mapping[str, Any]) -> bool:
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
    repository.of_job(session, lease.job_id).metrics = dict(metrics)
    return True
