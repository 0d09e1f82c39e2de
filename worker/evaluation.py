"""The evaluation recipe, read top to bottom: fetch, answer every row in a child, publish the metrics."""

from pathlib import Path

from app.blobs.keys import adapter_key, evaluation_rows_key
from app.datasets import repository as datasets
from app.datasets import service as dataset_service
from app.db.unit_of_work import read_only, unit_of_work
from app.evaluations import service as evaluations
from app.jobs.leases import Lease
from app.jobs.models import Job
from worker.assignment import OUTPUT, Assignment
from worker.context import WorkerContext
from worker.heartbeat import Heartbeat
from worker.messages import Finished
from worker.recipe import end_without_result, log_crash, note_message, read_job, wanted, work_folder
from worker.supervision import run_child


def run_evaluation(context: WorkerContext, lease: Lease) -> None:
    """Works on a claimed evaluation until it has moved on, or the lease is lost."""
    job = read_job(context, lease)
    with Heartbeat(context.engine, lease, lease_s=context.lease_s) as heartbeat, work_folder(context, lease) as folder:
        ending = run_child(
            folder,
            _assignment(context, job, folder),
            fence=lease.fence,
            on_message=lambda message: note_message(context, lease, message),
            want=lambda: wanted(context, heartbeat),
            stop_grace_s=context.stop_grace_s,
        )
        log_crash(folder, lease, ending)
        if not isinstance(ending.last, Finished) or heartbeat.lost:
            end_without_result(context, lease, heartbeat, ending)
            return
        key = evaluation_rows_key(lease.job_id, lease.fence)
        context.blobs.put_file(key, folder / OUTPUT / "rows.jsonl")
        with unit_of_work(context.engine) as session:
            published = evaluations.finish(session, lease, metrics=ending.last.result["metrics"], rows_key=key)
        if not published:
            context.blobs.delete(key)


def _assignment(context: WorkerContext, job: Job, folder: Path) -> Assignment:
    base = context.store.import_in_subprocess(job.base_model)
    checksum = job.spec["adapter_checksum"]
    with read_only(context.engine) as session:
        assert job.validation_file_id is not None
        dataset = datasets.get(session, job.validation_file_id)
    return Assignment(
        kind="evaluation",
        base_model=base.name,
        base_model_folder=str(base.path.resolve()),
        base_model_checksum=base.checksum,
        dataset=str(dataset_service.fetch_rows(context.blobs, dataset, folder)),
        dataset_checksum=dataset.sha256,
        validation=None,
        spec={},
        seed=job.seed,
        resume_from=None,
        adapter_folder=None if checksum is None else str(context.blobs.fetch(adapter_key(checksum), folder)),
        adapter_checksum=checksum,
        max_rows=job.spec["max_rows"],
        threads=context.threads,
        memory_limit_gib=context.memory_limit_gib,
    )
