"""What may be done with jobs: by users over HTTP, and by the worker that holds a lease."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.adapters.aliases import get_adapter
from app.adapters.models import Adapter
from app.blobs.store import BlobStore
from app.codebook import service as codebook
from app.datasets import repository as datasets
from app.datasets.models import Dataset
from app.db.clock import db_now
from app.db.unit_of_work import after_commit
from app.errors import AppError, Conflict, InvalidInput, Kind
from app.fault_points import reach
from app.ids import new_id
from app.jobs import events, repository
from app.jobs.feasibility import check_memory_limit, check_rows_fit
from app.jobs.hyperparameters import named_as_in_request
from app.jobs.leases import Lease
from app.jobs.models import Checkpoint, Job
from app.jobs.queue import Doorbell
from app.jobs.states import JobStatus, JobWish, move
from app.ml.errors import InvalidSpec, NoRows
from app.ml.estimates import check_spec_against_base
from app.ml.model_store import ModelStore
from app.ml.spec import FinetuneSpec

_ID_PREFIXES = {repository.EVALUATION: "evaljob", repository.EXPORT: "exportjob"}
_SUFFIX = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)


class QueueFull(AppError):
    """Too many jobs wait already."""

    kind = Kind.UNAVAILABLE
    code = "queue_full"
    retryable = True


@dataclass(frozen=True)
class NewJob:
    """What a user asks to be trained; names and numbers were checked for form, not yet against the database."""

    base_model: str
    training_file: str
    validation_file: str | None
    spec: FinetuneSpec
    hyperparameters: Mapping[str, Any]
    suffix: str | None
    seed: int
    metadata: Mapping[str, str]
    takes_codebook_codes: bool = False


def create_finetune(
    session: Session,
    new: NewJob,
    *,
    store: ModelStore,
    blobs: BlobStore,
    bell: Doorbell,
    max_unfinished: int,
    memory_limit_gib: float | None = None,
) -> Job:
    """Checks and queues a fine-tuning job; the bell rings after the commit.

    Raises:
        NotFound: a file or base model does not exist.
        InvalidInput: as `check_new_job`, or the code book is asked for and empty.
        OutOfDeviceMemory: the job cannot fit into the memory limit.
        QueueFull: the queue's limit is reached.
    """
    check_new_job(session, new, store=store, blobs=blobs, memory_limit_gib=memory_limit_gib)
    book = codebook.get_codes(session, param="codebook_codes") if new.takes_codebook_codes else None
    return _queue(
        session,
        Job(
            id=new_id("ftjob"),
            kind=repository.FINETUNE,
            base_model=new.base_model,
            training_file_id=new.training_file,
            validation_file_id=new.validation_file,
            spec=new.spec.to_mapping(),
            hyperparameters=dict(new.hyperparameters),
            suffix=new.suffix,
            seed=new.seed,
            user_metadata=dict(new.metadata),
            codebook_version=book.version if book else None,
            extra_codes=list(book.codes) if book else None,
        ),
        bell=bell,
        max_unfinished=max_unfinished,
    )


def check_new_job(
    session: Session, new: NewJob, *, store: ModelStore, blobs: BlobStore, memory_limit_gib: float | None = None
) -> None:
    """Checks what a user asks against the database, the base model and the data; holds the files until the commit.

    Quick for a file of any size, so it lets pass what only reading every row would tell: the training process checks again
    and fails with the same code and param. `param` of what is raised is the request's name of the field.

    Raises:
        NotFound: a file, a base model or an adapter to learn from does not exist.
        InvalidInput: a file cannot be trained on, the suffix is unusable, the spec needs a validation file and has none, or
            it cannot work on this base model or these rows.
        OutOfDeviceMemory: not even the smallest step fits into `memory_limit_gib`.
    """
    base = store.get(new.base_model)
    if new.suffix is not None and not _SUFFIX.fullmatch(new.suffix):
        raise InvalidInput(
            "A suffix has 1 to 64 letters, digits, '.', '_' and '-', and begins with a letter or digit.", param="suffix"
        )
    if new.spec.needs_evaluation is not None and new.validation_file is None:
        raise InvalidInput(f"{new.spec.needs_evaluation} needs held-out rows. Give a validation_file.", param="validation_file")
    with named_as_in_request(new.hyperparameters):
        shapes = check_spec_against_base(base.path, new.spec)
        for teacher in new.spec.distill_from:
            _check_teacher(session, teacher, new.base_model)
        training = _trainable(session, new.training_file, "training_file")
        if new.validation_file is not None:
            _trainable(session, new.validation_file, "validation_file")
        check_rows_fit(training, new.spec, base, blobs)
        if memory_limit_gib is not None:
            check_memory_limit(training, new.spec, base, shapes, blobs, limit_gib=memory_limit_gib)


def _check_teacher(session: Session, adapter_id: str, base_model: str) -> None:
    adapter = get_adapter(session, adapter_id, param="distill_from")
    if adapter.base_model != base_model:
        raise InvalidSpec(
            f"Adapter {adapter_id!r} is one of {adapter.base_model!r}: a job on {base_model!r} cannot learn from it.",
            param="distill_from",
        )


def create_on_model(
    session: Session,
    kind: str,
    *,
    base_model: str,
    adapter_id: str | None,
    spec: Mapping[str, Any],
    store: ModelStore,
    bell: Doorbell,
    max_unfinished: int,
    file_id: str | None = None,
) -> Job:
    """Checks and queues what is done with a model that exists: an evaluation of it on a file, or an export.

    Raises:
        NotFound: the base model is not in the store, or there is no such file.
        InvalidInput: the file has no rows, or is a result.
        QueueFull: the queue's limit is reached.
    """
    store.get(base_model)
    if file_id is not None:
        _trainable(session, file_id, "file")
    job = Job(
        id=new_id(_ID_PREFIXES[kind]),
        kind=kind,
        base_model=base_model,
        training_file_id=None,
        validation_file_id=file_id,
        spec=dict(spec),
        hyperparameters={},
        suffix=None,
        seed=0,
        user_metadata={},
        adapter_id=adapter_id,
    )
    return _queue(session, job, bell=bell, max_unfinished=max_unfinished)


def cancel(session: Session, job_id: str, *, kind: str) -> Job:
    """Cancels a job: at once where nothing runs, else by a wish that its worker obeys within seconds.

    Raises:
        Conflict: the job has ended.
    """
    job = repository.get(session, job_id, kind=kind, for_update=True)
    if job.status == JobStatus.RUNNING.value:
        return _wish(session, job, JobWish.CANCEL, "Cancel requested.")
    if not move(session, job_id, JobStatus.CANCELLED, message="Cancelled."):
        raise Conflict(f"Job {job_id!r} is {job.status} and cannot be cancelled any more.")
    return repository.get(session, job_id)


def pause(session: Session, job_id: str) -> Job:
    """Pauses a fine-tuning job: at once where nothing runs, else after a checkpoint.

    Raises:
        Conflict: the job has ended, is paused, or is being cancelled.
    """
    job = repository.get(session, job_id, kind=repository.FINETUNE, for_update=True)
    if job.status == JobStatus.RUNNING.value:
        if job.wish == JobWish.CANCEL.value:
            raise Conflict(f"Job {job_id!r} is being cancelled.")
        return _wish(session, job, JobWish.PAUSE, "Pause requested.")
    if not move(session, job_id, JobStatus.PAUSED, message="Paused."):
        raise Conflict(f"Job {job_id!r} is {job.status} and cannot be paused.")
    return repository.get(session, job_id)


def resume(session: Session, job_id: str, *, bell: Doorbell) -> Job:
    """Queues a paused job again; it goes on from its last checkpoint.

    Raises:
        Conflict: the job is not paused.
    """
    job = repository.get(session, job_id, kind=repository.FINETUNE, for_update=True)
    if job.status != JobStatus.PAUSED.value or not move(
        session, job_id, JobStatus.QUEUED, message="Resumed.", values={"due_at": db_now(), "attempts": 0}
    ):
        raise Conflict(f"Job {job_id!r} is {job.status}, not paused.")
    after_commit(session, lambda: bell.ring(job_id))
    return repository.get(session, job_id)


def record_checkpoint(
    session: Session, lease: Lease, *, step: int, blob_key: str, checksum: str, metrics: Mapping[str, Any]
) -> bool:
    """Stores a checkpoint that is complete in the blob store; a later step than any before starts the count of attempts anew.

    False if fenced. A step that was reached before is no progress: attempts that come so far and no further have an end.
    """
    known = {checkpoint.step: checkpoint for checkpoint in repository.checkpoints_newest_first(session, lease.job_id)}
    attempts = 0 if step > max(known, default=0) else Job.attempts
    if not repository.update_fenced(session, lease.job_id, lease.fence, {"attempts": attempts}):
        return False
    if step in known:
        session.delete(known[step])
        session.flush()
    session.add(
        Checkpoint(
            id=new_id("ftckpt"),
            job_id=lease.job_id,
            step=step,
            fence=lease.fence,
            blob_key=blob_key,
            checksum=checksum,
            metrics=dict(metrics),
            created_at=repository.now(session),
        )
    )
    events.append(session, lease.job_id, f"Checkpoint at step {step}.", data={"step": step})
    return True


def finish_finetune(
    session: Session,
    lease: Lease,
    *,
    checksum: str,
    blob_key: str,
    metrics: Mapping[str, Any],
    trained_tokens: int,
    result_file_ids: Mapping[str, str],
) -> Adapter | None:
    """Ends a job with its adapter in one transaction; None if fenced: then nothing is published."""
    job = repository.get(session, lease.job_id)
    done = move(
        session,
        lease.job_id,
        JobStatus.SUCCEEDED,
        message="The job has succeeded.",
        fence=lease.fence,
        values={
            "metrics": dict(metrics),
            "trained_tokens": trained_tokens,
            "result_file_ids": dict(result_file_ids),
        },
    )
    if not done:
        return None
    adapter = adapters.create(
        session,
        name=job.suffix or f"{job.base_model}-ft",
        base_model=job.base_model,
        job_id=job.id,
        checksum=checksum,
        blob_key=blob_key,
        spec=job.spec,
        metrics=dict(metrics),
    )
    session.execute(
        update(Job).where(Job.id == job.id).values(adapter_id=adapter.id).execution_options(synchronize_session=False)
    )
    events.append(session, job.id, f"New adapter: {adapter.id}.", data={"adapter": adapter.id})
    return adapter


def fail(session: Session, lease: Lease, *, code: str, message: str, param: str | None) -> bool:
    """Ends a job that cannot succeed as asked. False if fenced."""
    return move(
        session,
        lease.job_id,
        JobStatus.FAILED,
        message=f"Failed: {message}",
        fence=lease.fence,
        level="error",
        values={"error_code": code, "error_message": message, "error_param": param},
    )


def _queue(session: Session, job: Job, *, bell: Doorbell, max_unfinished: int) -> Job:
    if repository.unfinished_count(session) >= max_unfinished:
        raise QueueFull(f"{max_unfinished} jobs wait or run already. Cancel one, or try again later.")
    # A row is born queued: the files were validated at their upload, the spec in this request.
    job.status, job.wish = JobStatus.QUEUED.value, JobWish.NONE.value
    job.created_at = job.due_at = repository.now(session)
    job.event_count = job.fence = job.attempts = 0
    session.add(job)
    session.flush()
    events.append(session, job.id, "Created and queued.", data={"status": JobStatus.QUEUED.value})
    job_id = job.id
    after_commit(session, lambda: reach("before_bell"))
    after_commit(session, lambda: bell.ring(job_id))
    return repository.get(session, job_id)


def _trainable(session: Session, file_id: str, param: str) -> Dataset:
    dataset = datasets.get(session, file_id, param=param, for_update=True)
    if dataset.report is None:
        raise InvalidInput(f"File {file_id!r} is a result, not a dataset. Upload questions and answers first.", param=param)
    if dataset.report["rows"] == 0:
        raise NoRows(f"File {file_id!r} has no rows. Give one that has.", param=param)
    return dataset


def _wish(session: Session, job: Job, wish: JobWish, message: str) -> Job:
    if job.wish != wish.value:
        session.execute(
            update(Job)
            .where(Job.id == job.id, Job.status == JobStatus.RUNNING.value)
            .values(wish=wish.value)
            .execution_options(synchronize_session=False)
        )
        events.append(session, job.id, message)
    return repository.get(session, job.id)
