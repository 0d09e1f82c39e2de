"""`/v1/codebook`: replace, get, report."""

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from app.access import audit
from app.access.dependencies import CallerDep
from app.codebook import repository, service
from app.codebook.entries import MAX_ENTRIES, Entry, InvalidCodebook, check_entries
from app.codebook.schemas import CodebookObject, CoverageObject, PutCodebook, ReplacedObject
from app.codebook.table import rows_of_cells, rows_of_csv, to_csv
from app.codebook.workbook import read_first_sheet
from app.db.unit_of_work import after_commit, unit_of_work
from app.http.dependencies import BlobsDep, EngineDep, ReadingDep, StoreDep
from app.http.errors import ERROR_RESPONSES

MAX_BODY_BYTES = 16 * 1024 * 1024
_JSON, _CSV = "application/json", "text/csv"
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def _json_schema() -> dict[str, Any]:
    # Inlined: a reference would be looked up in the whole API's document.
    schema = PutCodebook.model_json_schema()
    schema["properties"]["entries"]["items"] = schema.pop("$defs")["GivenEntry"]
    return schema


router = APIRouter(prefix="/v1/codebook", tags=["codebook"], responses=ERROR_RESPONSES)


async def _body(request: Request) -> bytes:
    return await request.body()


@router.put(
    "",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": _json_schema()}, _CSV: _BINARY, _XLSX: _BINARY},
        }
    },
)
def put_codebook(
    request: Request, caller: CallerDep, engine: EngineDep, body: Annotated[bytes, Depends(_body)]
) -> ReplacedObject:
    """Replaces the whole book: JSON, or a CSV or XLSX table with the columns code, category, text (代码, 类别, 文本)."""
    # Read before the transaction begins: SQLite has one writer at a time.
    entries = _entries(request.headers.get("content-type", ""), body)
    with unit_of_work(engine) as session:
        replaced = service.replace(session, entries)
        counts = {"version": replaced.version, "added": replaced.added, "changed": replaced.changed, "removed": replaced.removed}
        audit.record(session, caller, "codebook.replaced", "codebook", details=counts)
        after_commit(session, request.app.state.code_texts.forget)
    return ReplacedObject.of(replaced)


@router.get("", response_model=CodebookObject, responses={200: {"content": {_CSV: {}}}})
def get_codebook(
    session: ReadingDep, format: Annotated[Literal["json", "csv"], Query(description="`csv` opens in a spreadsheet.")] = "json"
) -> CodebookObject | Response:
    """Returns the whole book."""
    book = repository.get_book(session)
    entries = repository.read_entries(session)
    if format == "csv":
        headers = {"content-disposition": 'attachment; filename="codebook.csv"', "x-content-type-options": "nosniff"}
        return Response(to_csv(entries), media_type=_CSV, headers=headers)
    return CodebookObject.of(book, entries)


@router.get("/report")
def get_codebook_report(
    request: Request,
    session: ReadingDep,
    blobs: BlobsDep,
    store: StoreDep,
    *,
    model: Annotated[str, Query(max_length=110, description="An adapter (`telecom:7`) or an alias (`telecom@production`).")],
    limit: Annotated[int, Query(ge=1, le=MAX_ENTRIES, description="Most codes of each list.")] = 1000,
) -> CoverageObject:
    """Lists the adapter's codes that have no text, and the texts whose code it never answers with."""
    with tempfile.TemporaryDirectory(dir=request.app.state.uploads_dir) as scratch:
        coverage = service.cover(session, blobs, store, model, scratch=Path(scratch))
    return CoverageObject.of(model, coverage, limit=limit)


def _entries(content_type: str, body: bytes) -> list[Entry]:
    match content_type.partition(";")[0].strip().lower():
        case media_type if media_type == _JSON:
            try:
                return check_entries(PutCodebook.model_validate_json(body).rows())
            except ValidationError as error:
                raise RequestValidationError(error.errors(include_url=False, include_input=False)) from error
        case media_type if media_type == _CSV:
            return check_entries(rows_of_csv(body))
        case media_type if media_type == _XLSX:
            return check_entries(rows_of_cells(read_first_sheet(body)))
    raise InvalidCodebook(f"Send the book as {_JSON}, {_CSV} or {_XLSX}.", param="content-type")
