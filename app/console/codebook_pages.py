"""The code book: what it says of each code, how it fits a model, and the form that replaces it."""

import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, UploadFile
from pydantic import ValidationError
from starlette.responses import HTMLResponse, Response

from app.access.dependencies import CallerDep
from app.codebook import repository, service
from app.codebook.body import CSV, JSON, MAX_BYTES, XLSX, read_body
from app.codebook.entries import MAX_ENTRIES, Entry, InvalidCodebook
from app.codebook.replacing import replace_book
from app.codebook.schemas import CoverageObject
from app.console.choices import model_names
from app.console.forms import wrong_field
from app.console.pages import Pages, at_form, see
from app.console.route import ConsoleRoute
from app.db.unit_of_work import read_only
from app.errors import AppError
from app.http.dependencies import BlobsDep, EngineDep, StoreDep
from app.ml.codes import category_of
from app.ml.formats.example import MAX_CODE_CHARS
from app.ml.formats.repeated_names import find_repeated_name
from app.ml.model_store import ModelStore

PREFIX = "/console/codebook"
_PAGE, _LISTED = 50, 300
_MEDIA_TYPE_OF_ENDING = {".json": JSON, ".csv": CSV, ".xlsx": XLSX}
_Count = Annotated[int | None, Query(ge=0, le=MAX_ENTRIES)]


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    def show_book(
        request: Request,
        engine: EngineDep,
        store: ModelStore,
        *,
        wanted: str = "",
        after: str | None = None,
        changes: dict[str, int] | None = None,
        error: AppError | None = None,
    ) -> HTMLResponse:
        with read_only(engine) as session:
            book, tally = repository.get_book(session), repository.tally(session)
            entries, has_more = repository.entries_page(session, wanted=wanted, after=after, limit=_PAGE)
            names = _with_codes(model_names(session, store))
        return pages.render(
            request,
            "codebook.html",
            section="codebook",
            book=book,
            tally=tally,
            entries=[(entry, entry.category or category_of(entry.code)) for entry in entries],
            wanted=wanted,
            names=names,
            changes=changes,
            next_after=entries[-1].code if has_more else None,
            is_first=after is None,
            max_upload_bytes=MAX_BYTES,
            **at_form(error),
        )

    @router.get("")
    def show(
        request: Request,
        engine: EngineDep,
        store: StoreDep,
        wanted: Annotated[str, Query(max_length=200)] = "",
        after: Annotated[str | None, Query(max_length=MAX_CODE_CHARS)] = None,
        added: _Count = None,
        changed: _Count = None,
        removed: _Count = None,
    ) -> HTMLResponse:
        """Shows the book page by page, or the entries in which a text occurs."""
        counts = {"added": added, "changed": changed, "removed": removed}
        known = {name: count for name, count in counts.items() if count is not None}
        changes = known if len(known) == len(counts) else None
        return show_book(request, engine, store, wanted=wanted.strip(), after=after, changes=changes)

    @router.post("")
    def replace(request: Request, caller: CallerDep, engine: EngineDep, store: StoreDep, file: UploadFile) -> Response:
        """Replaces the whole book, or says at the form which rows are wrong."""
        try:
            # Read before the transaction begins: SQLite has one writer at a time.
            entries = _entries_of(file)
            replaced = replace_book(engine, entries, caller=caller, forget_texts=request.app.state.code_texts.forget)
        except AppError as error:
            return show_book(request, engine, store, error=error)
        counts = f"added={replaced.added}&changed={replaced.changed}&removed={replaced.removed}"
        return see(f"{PREFIX}?{counts}", done="book_replaced")

    @router.get("/report")
    def show_report(
        request: Request,
        engine: EngineDep,
        blobs: BlobsDep,
        store: StoreDep,
        model: Annotated[str, Query(max_length=110)] = "",
    ) -> HTMLResponse:
        """Shows which codes of a model have no text, and which texts belong to no code of it."""
        report, failure = None, None
        with read_only(engine) as session:
            names = _with_codes(model_names(session, store))
            chosen = model or next((name for kind in names.values() for name in kind), "")
            if chosen:
                try:
                    with tempfile.TemporaryDirectory(dir=request.app.state.uploads_dir) as scratch:
                        report = service.cover(session, blobs, store, chosen, scratch=Path(scratch))
                except AppError as error:
                    failure = error
        return pages.render(
            request,
            "codebook_report.html",
            section="codebook",
            names=names,
            model=chosen,
            report=None if report is None else CoverageObject.of(chosen, report, limit=_LISTED),
            **at_form(failure),
        )

    return router


def _with_codes(names: dict[str, list[str]]) -> dict[str, list[str]]:
    # A base model has no codes of its own.
    return {**names, "base": []}


def _entries_of(file: UploadFile) -> list[Entry]:
    """Returns the entries of an uploaded book; the ending of its name tells what it is.

    Raises:
        InvalidCodebook: the ending is none of ours, or a row breaks a rule.
        WrongField: it is JSON, but no book.
        TooLarge: it has too many entries.
    """
    media_type = _MEDIA_TYPE_OF_ENDING.get(Path(file.filename or "").suffix.lower())
    if media_type is None:
        raise InvalidCodebook("The file's name must end with .json, .csv or .xlsx. Save it as one of these.", param="file")
    body = file.file.read()
    if media_type == JSON and (repeated := find_repeated_name(body)) is not None:
        raise InvalidCodebook(f"The file has {repeated[:100]!r} twice in one object. Keep one of them.", param="file")
    try:
        return read_body(media_type, body)
    except ValidationError as error:
        raise wrong_field(error) from error
