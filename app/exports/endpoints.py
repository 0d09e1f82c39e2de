"""`/v1/exports`: create, list, get, cancel, content, delete."""

import re
import tempfile
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from app.db.unit_of_work import after_commit
from app.exports import repository, service
from app.exports.archive import open_file, open_tar
from app.exports.models import Export
from app.exports.schemas import CreateExport, ExportObject
from app.http.dependencies import AfterParam, BlobsDep, IdempotencyKeyParam, LimitParam, ReadingDep, StoreDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage
from app.http.schemas import Deleted
from app.jobs import service as jobs
from app.jobs.idempotency import CreationKey, create_once
from app.jobs.repository import EXPORT
from app.ml.export_folders import GGUF_FILE


def make_router(*, max_unfinished: int) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix="/v1/exports", tags=["exports"], responses=ERROR_RESPONSES)

    @router.post("")
    def create_export(
        request: Request,
        session: TransactionDep,
        store: StoreDep,
        body: CreateExport,
        idempotency_key: IdempotencyKeyParam = None,
    ) -> ExportObject:
        """Queues an export: an adapter as plain peft, plain transformers or llama.cpp load it.

        The same `Idempotency-Key` with the same body gives the same export.
        """
        export = create_once(
            session,
            Export,
            CreationKey.find(idempotency_key, body),
            lambda: service.create(
                session,
                model=body.model,
                format=body.format,
                store=store,
                bell=request.app.state.bell,
                max_unfinished=max_unfinished,
            ),
        )
        return ExportObject.of(export, repository.job_of(session, export))

    @router.get("")
    def list_exports(session: ReadingDep, after: AfterParam = None, limit: LimitParam = 20) -> ListPage[ExportObject]:
        """Lists exports, newest first."""
        rows, has_more = repository.list_page(session, after=after, limit=limit)
        return ListPage.of([ExportObject.of(export, job) for export, job in rows], has_more=has_more)

    @router.get("/{export_id}")
    def get_export(session: ReadingDep, export_id: str) -> ExportObject:
        """Returns an export with its progress, size and checksum."""
        export = repository.get(session, export_id)
        return ExportObject.of(export, repository.job_of(session, export))

    @router.post("/{export_id}/cancel")
    def cancel_export(session: TransactionDep, export_id: str) -> ExportObject:
        """Cancels an export."""
        export = repository.get(session, export_id)
        return ExportObject.of(export, jobs.cancel(session, export.job_id, kind=EXPORT))

    @router.get("/{export_id}/content", response_class=StreamingResponse)
    def get_export_content(request: Request, session: ReadingDep, blobs: BlobsDep, export_id: str) -> StreamingResponse:
        """Streams an export: an uncompressed tar of its files, or the one file of a GGUF export."""
        export = repository.get(session, export_id)
        key, is_gguf = service.get_blob_key(session, export), export.format == "gguf"
        # Opened here, before the status is sent: files that are missing must not look like a short download. What a remote
        # store copied may go at once, for it is open.
        with tempfile.TemporaryDirectory(dir=request.app.state.uploads_dir) as scratch:
            folder = blobs.fetch(key, Path(scratch))
            content = open_file(folder / GGUF_FILE) if is_gguf else open_tar(folder)
        adapter = repository.job_of(session, export).adapter_id or export.id
        filename = re.sub(r"[^A-Za-z0-9._-]+", "-", adapter) + (".gguf" if is_gguf else f"-{export.format}.tar")
        headers = {
            "content-length": str(content.size_bytes),
            "content-disposition": f'attachment; filename="{filename}"',
            "x-content-type-options": "nosniff",
        }
        media_type = "application/octet-stream" if is_gguf else "application/x-tar"
        return StreamingResponse(content.chunks, media_type=media_type, headers=headers)

    @router.delete("/{export_id}")
    def delete_export(session: TransactionDep, blobs: BlobsDep, export_id: str) -> Deleted:
        """Deletes an export and its files; 409 while it is being written."""
        key = service.delete(session, export_id)
        if key is not None:
            after_commit(session, lambda: blobs.delete(key))
        return Deleted(id=export_id, object="export")

    return router
