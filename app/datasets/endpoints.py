"""`/v1/files`: upload, list, get, content, delete."""

from collections.abc import Iterator
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Depends, Form, Query, Request, UploadFile
from starlette.responses import StreamingResponse

from app.datasets import repository, service
from app.datasets.schemas import FileObject, PreviewObject
from app.datasets.upload_options import UploadOptions
from app.datasets.uploading import store_upload
from app.db.unit_of_work import after_commit
from app.errors import InvalidInput
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, LimitParam, ReadingDep, StoreDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage
from app.http.schemas import Deleted
from app.ml.formats.report import RARE_CODE_ROWS

MULTIPART_OVERHEAD_BYTES = 64 * 1024
"""What a form with a file may have beside the file."""
_CHUNK_BYTES = 1 << 20
_COLUMNS = 'JSON object: {"question": …, "answer": …, "input": …, "slices": [columns]}; none: found by heading.'
_DATASET_INFO = "LLaMA-Factory's dataset_info.json as a JSON object: one entry, or all, chosen by the file's name."
_ENCODING = "utf-8, utf-16, gbk or gb18030; none: by byte order mark, UTF-8, or what reads like Chinese as GB18030."
_COMPARE_WITH = "Id of a file; the report lists the questions that stand in both (leak check)."
_BASE_MODEL = "Base model whose tokens the report counts; its weights must be in the store."


_FIELDS = frozenset(
    {"file", "purpose", "columns", "dataset_info", "encoding", "sheet", "compare_with", "rare_code_rows", "base_model"}
)


async def _refuse_unknown_fields(request: Request) -> None:
    """Refuses a form with a field that nobody reads, such as a misspelt `columms`, or with a field twice."""
    # Parsed already, for the endpoint.
    names = [name for name, _ in (await request.form()).multi_items()]
    for place, name in enumerate(names):
        if name not in _FIELDS:
            raise InvalidInput(f"The form has no field {name[:100]!r}. It has: {', '.join(sorted(_FIELDS))}.", param=name[:100])
        if name in names[:place]:
            raise InvalidInput(f"The form has the field {name!r} twice.", param=name)


def make_router(*, max_upload_bytes: int) -> APIRouter:
    """Builds the routes; the limit of the upload is its own."""
    router = APIRouter(prefix="/v1/files", tags=["files"], responses=ERROR_RESPONSES)

    @router.post("", dependencies=[Depends(_refuse_unknown_fields)])
    def upload_file(
        *,
        request: Request,
        engine: EngineDep,
        blobs: BlobsDep,
        store: StoreDep,
        file: UploadFile,
        purpose: Annotated[str, Form(max_length=32)],
        columns: Annotated[str | None, Form(max_length=20_000, description=_COLUMNS)] = None,
        dataset_info: Annotated[str | None, Form(max_length=200_000, description=_DATASET_INFO)] = None,
        encoding: Annotated[str | None, Form(max_length=32, description=_ENCODING)] = None,
        sheet: Annotated[str | None, Form(max_length=100, description="Sheet of a workbook; none: the first.")] = None,
        compare_with: Annotated[str | None, Form(max_length=64, description=_COMPARE_WITH)] = None,
        rare_code_rows: Annotated[
            int, Form(ge=1, le=10_000, description="Codes that fewer rows show are reported as rare.")
        ] = RARE_CODE_ROWS,
        base_model: Annotated[str | None, Form(max_length=100, description=_BASE_MODEL)] = None,
    ) -> FileObject:
        """Stores a dataset: Alpaca JSON or JSONL, chat JSONL, CSV, TSV or XLSX.

        A file with a wrong row is refused, and nothing of it is kept.
        """
        options = UploadOptions.of_form(
            filename=file.filename,
            columns=columns,
            dataset_info=dataset_info,
            encoding=encoding,
            sheet=sheet,
            rare_code_rows=rare_code_rows,
            compare_with=compare_with,
            base_model=base_model,
        )
        dataset = store_upload(
            file.file,
            options,
            filename=file.filename or "file",
            purpose=purpose,
            engine=engine,
            blobs=blobs,
            store=store,
            uploads_dir=request.app.state.uploads_dir,
            max_upload_bytes=max_upload_bytes,
        )
        return FileObject.of(dataset)

    @router.get("")
    def list_files(
        session: ReadingDep,
        after: AfterParam = None,
        limit: LimitParam = 20,
        purpose: Annotated[str | None, Query(max_length=32)] = None,
        order: Annotated[str | None, Query(pattern="^desc$")] = None,
    ) -> ListPage[FileObject]:
        """Lists files, newest first; the report of each is cut to its numbers."""
        rows, has_more = repository.list_page(session, purpose=purpose, after=after, limit=limit)
        return ListPage.of([FileObject.brief(row) for row in rows], has_more=has_more)

    @router.get("/{file_id}")
    def get_file(session: ReadingDep, file_id: str) -> FileObject:
        """Returns a file with its validation report."""
        return FileObject.of(repository.get(session, file_id))

    @router.get("/{file_id}/preview")
    def preview_file(
        session: ReadingDep,
        blobs: BlobsDep,
        file_id: str,
        offset: Annotated[int, Query(ge=0, le=100_000_000, description="Rows to leave out.")] = 0,
        limit: LimitParam = 20,
    ) -> PreviewObject:
        """Returns some rows of a dataset, as jobs read them."""
        dataset = repository.get(session, file_id)
        return PreviewObject.of(dataset, service.read_preview(blobs, dataset, offset=offset, limit=limit))

    @router.get("/{file_id}/content", response_class=StreamingResponse)
    def get_file_content(session: ReadingDep, blobs: BlobsDep, file_id: str) -> StreamingResponse:
        """Streams a file's bytes."""
        dataset = repository.get(session, file_id)
        media_type = "image/png" if dataset.filename.endswith(".png") else "application/octet-stream"
        headers = {"content-length": str(dataset.size_bytes), "x-content-type-options": "nosniff"}
        # Opened here, before the status is sent: bytes that are missing must not look like a short file.
        return StreamingResponse(_chunks(blobs.open(dataset.blob_key)), media_type=media_type, headers=headers)

    @router.delete("/{file_id}")
    def delete_file(request: Request, session: TransactionDep, blobs: BlobsDep, file_id: str) -> Deleted:
        """Deletes a file; 409 while an unfinished job needs it."""
        key = service.delete(session, file_id, users_of=request.app.state.file_users)
        after_commit(session, lambda: service.forget(blobs, key))
        return Deleted(id=file_id, object="file")

    return router


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
