"""What may be done with exports."""

from sqlalchemy.orm import Session

from app.adapters.service import resolve
from app.errors import Conflict
from app.exports import repository
from app.exports.models import Export
from app.ids import new_id
from app.jobs import orders
from app.jobs import repository as job_rows
from app.jobs import service as jobs
from app.jobs.leases import Lease
from app.jobs.queue import Doorbell
from app.jobs.states import JobStatus, move
from app.ml.errors import NotExportable
from app.ml.export_folders import ExportFormat
from app.ml.model_store import ModelStore


def create(
    session: Session, *, model: str, format: ExportFormat, store: ModelStore, bell: Doorbell, max_unfinished: int
) -> Export:
    """Queues an export of the adapter that `model` stands for now; a later move of an alias does not touch it.

    Raises:
        NotFound: no such model.
        NotExportable: it is a base model.
        QueueFull: the queue's limit is reached.
    """
    resolved = resolve(session, model, store)
    if resolved.adapter_id is None:
        raise NotExportable(f"{model!r} is a base model. Export an adapter of it, for example telecom:1.", param="model")
    job = jobs.create_on_model(
        session,
        job_rows.EXPORT,
        base_model=resolved.base_model,
        adapter_id=resolved.adapter_id,
        spec={"version": 1, "adapter_checksum": resolved.adapter_checksum, "format": format},
        store=store,
        bell=bell,
        max_unfinished=max_unfinished,
    )
    export = Export(id=new_id("export"), job_id=job.id, model=model, format=format, created_at=job.created_at)
    session.add(export)
    session.flush()
    return export


def finish(session: Session, lease: Lease, *, blob_key: str, checksum: str, size_bytes: int) -> bool:
    """Ends an export with its files in one transaction. False if fenced: then nothing is published."""
    if not move(session, lease.job_id, JobStatus.SUCCEEDED, message="The export has succeeded.", fence=lease.fence):
        return False
    export = repository.of_job(session, lease.job_id)
    export.blob_key, export.checksum, export.size_bytes = blob_key, checksum, size_bytes
    return True


def get_blob_key(session: Session, export: Export) -> str:
    """Returns where an export's files lie.

    Raises:
        Conflict: it has not succeeded.
    """
    if export.blob_key is None:
        status = repository.job_of(session, export).status
        raise Conflict(f"Export {export.id!r} is {status} and has no content. Ask GET /v1/exports/{export.id} for its status.")
    return export.blob_key


def delete(session: Session, export_id: str) -> str | None:
    """Removes an export and its job, and returns its blob key, or None where it never had one.

    Raises:
        NotFound: no such export.
        Conflict: its job has not ended.
    """
    export = repository.get(session, export_id)
    job = orders.lock_ended(session, export)
    orders.delete(session, export, job)
    return export.blob_key
