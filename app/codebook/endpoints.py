"""`/v1/codebook`: replace, get, report."""

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from app.access.dependencies import CallerDep
from app.codebook import repository, service
from app.codebook.body import CSV, JSON, XLSX, read_body
from app.codebook.entries import MAX_ENTRIES
from app.codebook.replacing import replace_book
from app.codebook.schemas import CodebookObject, CoverageObject, PutCodebook, ReplacedObject
from app.codebook.table import to_csv
from app.http.dependencies import BlobsDep, EngineDep, ReadingDep, StoreDep
from app.http.errors import ERROR_RESPONSES

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
            "content": {JSON: {"schema": _json_schema()}, CSV: _BINARY, XLSX: _BINARY},
        }
    },
)
def put_codebook(
    request: Request, caller: CallerDep, engine: EngineDep, body: Annotated[bytes, Depends(_body)]
) -> ReplacedObject:
    """Replaces the whole book: JSON, or a CSV or XLSX table with the columns code, category, text (代码, 类别, 文本)."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        # Read before the transaction begins: SQLite has one writer at a time.
        entries = read_body(media_type, body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from error
    return ReplacedObject.of(replace_book(engine, entries, caller=caller, forget_texts=request.app.state.code_texts.forget))


@router.get("", response_model=CodebookObject, responses={200: {"content": {CSV: {}}}})
def get_codebook(
    session: ReadingDep, format: Annotated[Literal["json", "csv"], Query(description="`csv` opens in a spreadsheet.")] = "json"
) -> CodebookObject | Response:
    """Returns the whole book."""
    book = repository.get_book(session)
    entries = repository.read_entries(session)
    if format == "csv":
        headers = {"content-disposition": 'attachment; filename="codebook.csv"', "x-content-type-options": "nosniff"}
        return Response(to_csv(entries), media_type=CSV, headers=headers)
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
