"""The export recipe, read top to bottom: fetch, write the folder in a child, keep it in the blob store."""

from pathlib import Path

from app.blobs.keys import export_key
from app.db.unit_of_work import unit_of_work
from app.exports import service as exports
from app.jobs.leases import Lease
from app.jobs.models import Job
from app.ml.gguf_conversion import get_converter
from worker.assignment import OUTPUT, Assignment
from worker.context import WorkerContext
from worker.heartbeat import Heartbeat
from worker.recipe import fetch_adapter, read_job, run_attempt, work_folder


def run_export(context: WorkerContext, lease: Lease) -> None:
    """Works on a claimed export until it has moved on, or the lease is lost."""
    job = read_job(context, lease)
    # What an attempt left that died between its files and its row: gigabytes that nobody would find.
    for fence in range(1, lease.fence):
        context.blobs.delete(export_key(lease.job_id, fence))
    with Heartbeat(context.engine, lease, lease_s=context.lease_s) as heartbeat, work_folder(context, lease) as folder:
        finished = run_attempt(context, lease, heartbeat, folder, _assignment(context, job, folder))
        if finished is None:
            return
        key = export_key(lease.job_id, lease.fence)
        context.blobs.put_folder(key, folder / OUTPUT)
        result = finished.result
        with unit_of_work(context.engine) as session:
            published = exports.finish(
                session, lease, blob_key=key, checksum=str(result["checksum"]), size_bytes=int(result["size_bytes"])
            )
        if not published:
            context.blobs.delete(key)


def _assignment(context: WorkerContext, job: Job, folder: Path) -> Assignment:
    # Before anything is read or written: a converter that is missing must not cost an hour of merging.
    converter = get_converter(context.gguf_converter) if job.spec["format"] == "gguf" else None
    base = context.store.import_in_subprocess(job.base_model)
    checksum = str(job.spec["adapter_checksum"])
    adapter = fetch_adapter(context, job, folder)
    return Assignment(
        kind="export",
        base_model=base.name,
        base_model_folder=str(base.path.resolve()),
        base_model_checksum=base.checksum,
        dataset="",
        dataset_checksum="",
        validation=None,
        spec={**job.spec, "adapter": job.adapter_id},
        seed=job.seed,
        resume_from=None,
        adapter_folder=str(adapter),
        adapter_checksum=checksum,
        max_rows=None,
        threads=context.threads,
        gguf_converter=None if converter is None else str(converter),
    )
