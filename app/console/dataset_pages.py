"""Datasets: upload, report, preview, histogram, split, delete."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, UploadFile
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.console.choices import datasets_of
from app.console.forms import checked, filled, whole
from app.console.pages import Pages, at_form, see
from app.console.plots import Plot, bars
from app.console.route import ConsoleRoute
from app.console.visit import words_of
from app.console.words import Words
from app.datasets import repository, service, splits
from app.datasets.schemas import FileObject
from app.datasets.split_schemas import CreateSplit
from app.datasets.upload_options import UploadOptions
from app.datasets.uploading import store_upload
from app.db.unit_of_work import after_commit, read_only
from app.errors import AppError
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, ReadingDep, StoreDep, TransactionDep

UPLOAD_PATH = "/console/datasets"
_PAGE, _PREVIEW, _BARS = 20, 20, 30


def make_router(pages: Pages, *, max_upload_bytes: int) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=UPLOAD_PATH, include_in_schema=False, route_class=ConsoleRoute)

    def show_list(
        request: Request,
        engine: EngineDep,
        after: str | None,
        *,
        values: dict[str, str],
        is_result: bool = False,
        error: AppError | None = None,
    ) -> HTMLResponse:
        which = {"purpose": service.RESULTS_PURPOSE} if is_result else {"purpose": None, "other_than": service.RESULTS_PURPOSE}
        with read_only(engine) as session:
            rows, has_more = repository.list_page(session, after=after, limit=_PAGE, **which)
            known = datasets_of(session)
        return pages.render(
            request,
            "datasets.html",
            section="datasets",
            files=[FileObject.brief(row) for row in rows],
            next_after=rows[-1].id if has_more else None,
            is_first=after is None,
            is_result=is_result,
            known=known,
            **at_form(error),
            values=values,
            max_upload_bytes=max_upload_bytes,
        )

    @router.get("")
    def list_datasets(request: Request, engine: EngineDep, after: AfterParam = None, results: bool = False) -> HTMLResponse:
        """Lists the datasets, or the files that jobs produced, beside the form that uploads one."""
        return show_list(request, engine, after, values={}, is_result=results)

    @router.post("")
    def upload(
        request: Request,
        engine: EngineDep,
        blobs: BlobsDep,
        store: StoreDep,
        file: UploadFile,
        purpose: Annotated[str, Form(max_length=32)] = "fine-tune",
        encoding: Annotated[str, Form(max_length=32)] = "",
        sheet: Annotated[str, Form(max_length=100)] = "",
        columns: Annotated[str, Form(max_length=20_000)] = "",
        compare_with: Annotated[str, Form(max_length=64)] = "",
    ) -> Response:
        """Stores a dataset, or says at the form which rows are wrong."""
        fields = {"purpose": purpose, "encoding": encoding, "sheet": sheet, "columns": columns, "compare_with": compare_with}
        try:
            options = UploadOptions.of_form(
                filename=file.filename, columns=columns, encoding=encoding, sheet=sheet, compare_with=compare_with
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
        except AppError as error:
            return show_list(request, engine, None, error=error, values=fields)
        return see(f"{UPLOAD_PATH}/{dataset.id}", done="uploaded")

    @router.get("/{file_id}")
    def show_dataset(
        request: Request,
        session: ReadingDep,
        blobs: BlobsDep,
        file_id: str,
        offset: Annotated[int, Query(ge=0, le=100_000_000)] = 0,
    ) -> HTMLResponse:
        """Shows a file's report and some of its rows."""
        dataset = repository.get(session, file_id)
        report = dataset.report
        return pages.render(
            request,
            "dataset.html",
            section="datasets",
            file=FileObject.of(dataset),
            report=report,
            rows=[] if report is None else service.read_preview(blobs, dataset, offset=offset, limit=_PREVIEW),
            offset=offset,
            next_offset=offset + _PREVIEW if report and offset + _PREVIEW < report.get("rows", 0) else None,
            previous_offset=max(0, offset - _PREVIEW) if offset else None,
            plots=[] if report is None else _histograms(report, words_of(request)),
        )

    @router.post("/{file_id}/split")
    def split(
        request: Request,
        engine: EngineDep,
        blobs: BlobsDep,
        file_id: str,
        held_out: Annotated[str, Form(max_length=20)] = "",
        seed: Annotated[str, Form(max_length=20)] = "",
    ) -> RedirectResponse:
        """Cuts held-out rows off a file; both parts keep its shares of categories."""
        form = filled({"held_out": held_out, "seed": seed})
        with read_only(engine) as session:
            parent = splits.get_splittable(session, file_id)
        name, rows = Path(parent.filename).stem, (parent.report or {}).get("rows", 0)
        size = whole(form, "held_out", default=0) or 0
        stem = "".join(char if char.isalnum() or char in "._-" else "_" for char in name)[:80] or "dataset"
        parts = [{"name": f"{stem}_train", "size": rows - size}, {"name": f"{stem}_test", "size": size}]
        body = checked(CreateSplit, {"parts": parts, "seed": whole(form, "seed", default=0)})
        with tempfile.TemporaryDirectory(dir=request.app.state.uploads_dir) as scratch:
            cut = [part.to_part() for part in body.parts]
            splits.split_file(engine, blobs, file_id, cut, seed=body.seed, scratch=Path(scratch))
        return see(UPLOAD_PATH, done="split")

    @router.post("/{file_id}/delete")
    def delete(request: Request, session: TransactionDep, blobs: BlobsDep, file_id: str) -> RedirectResponse:
        """Deletes a file that nothing needs."""
        key = service.delete(session, file_id, users_of=request.app.state.file_users)
        after_commit(session, lambda: service.forget(blobs, key))
        return see(UPLOAD_PATH, done="deleted")

    return router


def _histograms(report: dict[str, Any], words: Words) -> list[Plot]:
    categories = [(words.find(f"category.{name}", name), rows) for name, rows in report.get("categories", {}).items()][:_BARS]
    codes = [(one["code"], one["rows"]) for one in report.get("codes", [])][:_BARS]
    rows = words("dataset.rows")
    return [
        plot
        for plot in (
            bars("categories", words("plot.categories"), categories, x_title=rows, name=rows),
            bars("codes", words("plot.codes", n=len(codes)), codes, x_title=rows, name=rows),
        )
        if not plot.is_empty
    ]
