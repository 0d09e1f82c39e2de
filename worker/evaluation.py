"""The evaluation recipe, read top to bottom: fetch, answer every row in a child, keep the rows, publish the metrics."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from app.adapters import repository as adapters
from app.datasets import repository as datasets
from app.datasets import service as dataset_service
from app.datasets.models import Dataset
from app.db.unit_of_work import read_only, unit_of_work
from app.durable import BrokenFolder, verify_folder
from app.errors import NotFound
from app.evaluations import repository
from app.evaluations import service as evaluations
from app.evaluations.service import EvaluationPlan
from app.jobs import repository as jobs
from app.jobs.leases import Lease
from app.jobs.models import Job
from app.ml.evaluated_rows import EvaluatedRow
from worker.assignment import Assignment
from worker.context import WorkerContext
from worker.heartbeat import Heartbeat
from worker.messages import Answered, Message
from worker.recipe import fetch_adapter, note_message, read_job, run_attempt, work_folder


def run_evaluation(context: WorkerContext, lease: Lease) -> None:
    """Works on a claimed evaluation until it has moved on, or the lease is lost."""
    job = read_job(context, lease)
    with Heartbeat(context.engine, lease, lease_s=context.lease_s) as heartbeat, work_folder(context, lease) as folder:

        def on_message(message: Message) -> None:
            if isinstance(message, Answered):
                # Not as other messages, which may get lost: a row that is not kept must end this attempt.
                with unit_of_work(context.engine) as session:
                    evaluations.keep_rows(session, lease, [EvaluatedRow.from_mapping(row) for row in message.rows])
            else:
                note_message(context, lease, message)

        assignment = _assignment(context, lease, job, folder)
        finished = run_attempt(context, lease, heartbeat, folder, assignment, on_message=on_message)
        if finished is not None:
            with unit_of_work(context.engine) as session:
                evaluations.finish(session, lease, metrics=finished.result["metrics"])


def _assignment(context: WorkerContext, lease: Lease, job: Job, folder: Path) -> Assignment:
    base = context.store.import_in_subprocess(job.base_model)
    plan = EvaluationPlan.from_spec(job.spec)
    with read_only(context.engine) as session:
        assert job.validation_file_id is not None
        dataset = datasets.get(session, job.validation_file_id)
        answered = repository.answered_rows(session, repository.of_job(session, lease.job_id).id)
    assignment = Assignment(
        kind="evaluation",
        base_model=base.name,
        base_model_folder=str(base.path.resolve()),
        base_model_checksum=base.checksum,
        dataset=str(dataset_service.fetch_rows(context.blobs, dataset, folder)),
        dataset_checksum=dataset.sha256,
        validation=None,
        spec=asdict(plan),
        seed=job.seed,
        resume_from=None,
        adapter_folder=None,
        adapter_checksum=plan.adapter_checksum,
        max_rows=plan.max_rows,
        threads=context.threads,
        memory_limit_gib=context.memory_limit_gib,
        card_share=context.card_share,
    )
    if answered:
        path = folder / "answered.jsonl"
        path.write_text("".join(json.dumps(row.to_mapping()) + "\n" for row in answered))
        assignment = replace(assignment, answered=str(path))
    if plan.checkpoint is not None:
        return _with_checkpoint(context, assignment, plan.checkpoint, folder)
    if plan.adapter_checksum is not None:
        return _with_adapter(context, assignment, job, folder)
    return assignment


def _with_adapter(context: WorkerContext, assignment: Assignment, job: Job, folder: Path) -> Assignment:
    with read_only(context.engine) as session:
        adapter = None if job.adapter_id is None else adapters.find(session, job.adapter_id)
        trainer = None if adapter is None else session.get(Job, adapter.job_id)
        training = None if trainer is None else session.get(Dataset, trainer.training_file_id)
    return replace(
        assignment,
        adapter_folder=str(fetch_adapter(context, job, folder)),
        training=None if training is None else _find_rows(context, training, folder),
    )


def _with_checkpoint(context: WorkerContext, assignment: Assignment, checkpoint_id: str, folder: Path) -> Assignment:
    """Names what the child needs to make an adapter of a checkpoint: its weights, and the spec and rows of its training."""
    with read_only(context.engine) as session:
        checkpoint = jobs.get_checkpoint(session, checkpoint_id)
        trainer = jobs.get(session, checkpoint.job_id)
        extra_codes = jobs.extra_codes(session, trainer.id)
        assert trainer.training_file_id is not None
        training = datasets.get(session, trainer.training_file_id, param="model")
    try:
        place = context.blobs.fetch(checkpoint.blob_key, folder)
        is_whole = verify_folder(place) == checkpoint.checksum
    except (FileNotFoundError, BrokenFolder):
        is_whole = False
    if not is_whole:
        raise NotFound(f"The files of checkpoint {checkpoint_id!r} are gone or damaged. Evaluate another one.", param="model")
    return replace(
        assignment,
        spec=assignment.spec | {"training_spec": trainer.spec},
        seed=trainer.seed,
        adapter_folder=str(place),
        training=str(dataset_service.fetch_rows(context.blobs, training, folder)),
        dataset_checksum=training.sha256,
        extra_codes=extra_codes,
    )


def _find_rows(context: WorkerContext, training: Dataset, folder: Path) -> str | None:
    try:
        return str(dataset_service.fetch_rows(context.blobs, training, folder))
    except FileNotFoundError:
        return None
