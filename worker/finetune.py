"""The fine-tuning recipe, read top to bottom: fetch, train in a child, publish the adapter."""

import shutil
from pathlib import Path

import structlog

from app.adapters import repository as adapters
from app.adapters.models import Adapter
from app.blobs.keys import adapter_key, checkpoint_key
from app.datasets import repository as datasets
from app.datasets import service as dataset_service
from app.db.unit_of_work import after_commit, read_only, unit_of_work
from app.durable import BrokenFolder, verify_folder
from app.errors import NotFound
from app.fault_points import reach
from app.jobs import events, repository
from app.jobs import service as jobs
from app.jobs.hyperparameters import PARAM_PREFIX
from app.jobs.leases import Lease
from app.jobs.models import Job
from worker.assignment import OUTPUT, Assignment
from worker.context import WorkerContext
from worker.heartbeat import Heartbeat
from worker.messages import CheckpointWritten, Finished, Message
from worker.recipe import note_message, read_job, run_attempt, work_folder

_log = structlog.get_logger()


class _Fenced(Exception):
    """Another claim has come: nothing of this one is published."""


def run_finetune(context: WorkerContext, lease: Lease) -> None:
    """Works on a claimed fine-tuning job until it has moved on, or the lease is lost."""
    job = read_job(context, lease)
    with Heartbeat(context.engine, lease, lease_s=context.lease_s) as heartbeat, work_folder(context, lease) as folder:
        assignment = _assignment(context, lease, job, folder)

        def on_message(message: Message) -> None:
            if isinstance(message, CheckpointWritten):
                _keep_checkpoint(context, lease, message)
            else:
                note_message(context, lease, message)

        finished = run_attempt(context, lease, heartbeat, folder, assignment, on_message=on_message)
        if finished is not None:
            _publish(context, lease, folder / OUTPUT, finished)


def _assignment(context: WorkerContext, lease: Lease, job: Job, folder: Path) -> Assignment:
    base = context.store.import_in_subprocess(job.base_model)
    with read_only(context.engine) as session:
        assert job.training_file_id is not None
        training = datasets.get(session, job.training_file_id)
        validation = datasets.get(session, job.validation_file_id) if job.validation_file_id else None
        extra_codes = repository.extra_codes(session, lease.job_id)
        teachers = {name: adapters.find(session, name) for name in job.spec.get("distill_from", ())}
    return Assignment(
        kind="finetune",
        base_model=base.name,
        base_model_folder=str(base.path.resolve()),
        base_model_checksum=base.checksum,
        dataset=str(dataset_service.fetch_rows(context.blobs, training, folder)),
        dataset_checksum=training.sha256,
        validation=str(dataset_service.fetch_rows(context.blobs, validation, folder)) if validation else None,
        spec=job.spec,
        seed=job.seed,
        resume_from=_newest_whole_checkpoint(context, lease, folder),
        adapter_folder=None,
        adapter_checksum=None,
        max_rows=None,
        threads=context.threads,
        devices=context.devices_per_job,
        memory_limit_gib=context.memory_limit_gib,
        card_share=context.card_share,
        extra_codes=extra_codes,
        teachers=[_fetch_teacher(context, name, adapter, folder) for name, adapter in teachers.items()],
    )


def _fetch_teacher(context: WorkerContext, name: str, adapter: Adapter | None, folder: Path) -> str:
    try:
        place = context.blobs.fetch(adapter.blob_key, folder) if adapter is not None else None
        if place is not None and adapter is not None and verify_folder(place) == adapter.checksum:
            return str(place)
    except (FileNotFoundError, BrokenFolder):
        pass
    param = PARAM_PREFIX + "distill_from"
    raise NotFound(f"Adapter {name!r}, which this job learns from, is gone or damaged. Leave it out.", param=param)


def _newest_whole_checkpoint(context: WorkerContext, lease: Lease, folder: Path) -> str | None:
    """Returns the newest checkpoint that verifies; a broken one is told and passed over."""
    with read_only(context.engine) as session:
        checkpoints = repository.checkpoints_newest_first(session, lease.job_id)
    for checkpoint in checkpoints:
        try:
            place = context.blobs.fetch(checkpoint.blob_key, folder)
            if verify_folder(place) == checkpoint.checksum:
                return str(place)
            reason = "its checksum differs"
        except (FileNotFoundError, BrokenFolder) as error:
            reason = type(error).__name__
        _log.error("checkpoint_broken", job_id=lease.job_id, step=checkpoint.step, reason=reason)
        with unit_of_work(context.engine) as session:
            events.append(
                session, lease.job_id, f"The checkpoint at step {checkpoint.step} is broken; using an older one.", level="warn"
            )
    return None


def _keep_checkpoint(context: WorkerContext, lease: Lease, written: CheckpointWritten) -> None:
    """Moves a checkpoint into the blob store, then tells of it; the newest few and the best stay, the others go."""
    key = checkpoint_key(lease.job_id, written.step, lease.fence)
    context.blobs.put_folder(key, Path(written.folder))
    with unit_of_work(context.engine) as session:
        before = {checkpoint.blob_key for checkpoint in repository.checkpoints_newest_first(session, lease.job_id)}
        if not jobs.record_checkpoint(
            session, lease, step=written.step, blob_key=key, checksum=written.checksum, metrics=written.metrics
        ):
            after_commit(session, lambda: context.blobs.delete(key))
            return
        for old in repository.superseded_checkpoints(session, lease.job_id, keep=context.keep_checkpoints):
            session.delete(old)
        session.flush()
        # What an earlier attempt wrote at this very step was replaced, and goes too.
        left = {checkpoint.blob_key for checkpoint in repository.checkpoints_newest_first(session, lease.job_id)}
        for gone in before - left:
            after_commit(session, lambda gone=gone: context.blobs.delete(gone))  # type: ignore[misc]
        reach("before_commit_of_checkpoint")


def _publish(context: WorkerContext, lease: Lease, output: Path, finished: Finished) -> None:
    """Stores the files, then the rows in one transaction with the job's end; if fenced, the files go again."""
    checksum = str(finished.result["checksum"])
    context.blobs.put_folder(adapter_key(checksum), output / "adapter")
    stored: list[str] = []
    try:
        with unit_of_work(context.engine) as session:
            results = {}
            for name in ("loss.csv", "loss.png"):
                place = output.parent / f"{lease.job_id}-{name}"
                shutil.copy(output / name, place)
                dataset = dataset_service.create(
                    session, context.blobs, place, filename=place.name, purpose=dataset_service.RESULTS_PURPOSE, report=None
                )
                stored.append(dataset.blob_key)
                results[name] = dataset.id
            adapter = jobs.finish_finetune(
                session,
                lease,
                checksum=checksum,
                blob_key=adapter_key(checksum),
                metrics=finished.result["metrics"],
                trained_tokens=finished.result["trained_tokens"],
                result_file_ids=results,
            )
            if adapter is None:
                raise _Fenced
            reach("before_commit_of_end")
    except _Fenced as error:
        dataset_service.forget_uncommitted(context.blobs, stored, error)
    except BaseException as error:
        dataset_service.forget_uncommitted(context.blobs, stored, error)
        raise
    reach("after_commit_of_end")
