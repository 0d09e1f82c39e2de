"""Exports: start one, see how far each is, take it along, cancel, delete."""

from typing import Annotated, get_args

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.console.forms import checked, creation_key, filled
from app.console.pages import Pages, at_form, see
from app.console.route import ConsoleRoute
from app.db.unit_of_work import after_commit, read_only, unit_of_work
from app.errors import AppError
from app.exports import repository, service
from app.exports.models import Export
from app.exports.schemas import CreateExport, ExportObject
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, StoreDep, TransactionDep
from app.jobs import service as jobs
from app.jobs.idempotency import create_once
from app.jobs.repository import EXPORT
from app.jobs.states import TERMINAL, JobStatus
from app.ml.export_folders import ExportFormat

FORMATS: tuple[str, ...] = get_args(ExportFormat)
_PREFIX = "/console/exports"
_PAGE = 20


def make_router(pages: Pages, *, max_unfinished: int) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=_PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    def show_list(request: Request, engine: EngineDep, after: str | None, *, error: AppError | None = None) -> HTMLResponse:
        with read_only(engine) as session:
            rows, has_more = repository.list_page(session, after=after, limit=_PAGE)
        exports = [(ExportObject.of(export, job), job.wish, JobStatus(job.status) in TERMINAL) for export, job in rows]
        return pages.render(
            request,
            "exports.html",
            section="models",
            exports=exports,
            is_over=all(is_done for _, _, is_done in exports),
            next_after=rows[-1][0].id if has_more else None,
            is_first=after is None,
            **at_form(error),
        )

    @router.get("")
    def list_exports(request: Request, engine: EngineDep, after: AfterParam = None) -> HTMLResponse:
        """Lists exports, newest first."""
        return show_list(request, engine, after)

    @router.post("")
    def create(
        request: Request,
        engine: EngineDep,
        store: StoreDep,
        model: Annotated[str, Form(max_length=110)] = "",
        format: Annotated[str, Form(max_length=32)] = "",
        key: Annotated[str, Form(max_length=64)] = "",
    ) -> Response:
        """Queues an export; what is wrong is said above the list."""
        try:
            body = checked(CreateExport, filled({"model": model, "format": format}))
            with unit_of_work(engine) as session:
                create_once(
                    session,
                    Export,
                    creation_key(filled({"key": key}), body),
                    lambda: service.create(
                        session,
                        model=body.model,
                        format=body.format,
                        store=store,
                        bell=request.app.state.bell,
                        max_unfinished=max_unfinished,
                    ),
                )
        except AppError as error:
            return show_list(request, engine, None, error=error)
        return see(_PREFIX, done="queued")

    @router.post("/{export_id}/cancel")
    def cancel(session: TransactionDep, export_id: str) -> RedirectResponse:
        """Cancels an export."""
        jobs.cancel(session, repository.get(session, export_id).job_id, kind=EXPORT)
        return see(_PREFIX, done="cancelling")

    @router.post("/{export_id}/delete")
    def delete(session: TransactionDep, blobs: BlobsDep, export_id: str) -> RedirectResponse:
        """Deletes an export that has ended, and its files."""
        key = service.delete(session, export_id)
        if key is not None:
            after_commit(session, lambda: blobs.delete(key))
        return see(_PREFIX, done="deleted")

    return router
