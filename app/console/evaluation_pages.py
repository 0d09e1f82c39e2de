"""Evaluations: list, create, metrics, the rows that went wrong."""

from itertools import islice
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from starlette.datastructures import FormData
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.blobs.store import BlobStore
from app.console.choices import datasets_of, model_names
from app.console.forms import checked, field_of, filled, whole
from app.console.pages import Notice, Pages, see
from app.console.route import ConsoleRoute
from app.datasets.models import Dataset
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import AppError
from app.evaluations import repository, service
from app.evaluations.models import Evaluation
from app.evaluations.schemas import CreateEvaluation, EvaluationObject
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, ReadingDep, StoreDep, TransactionDep
from app.http.errors import status_of
from app.jobs import service as jobs
from app.jobs.repository import EVALUATION
from app.jobs.states import TERMINAL, JobStatus
from app.ml.model_store import ModelStore

_PREFIX = "/console/evaluations"
_PAGE, _ROWS = 20, 25


async def _form(request: Request) -> FormData:
    return await request.form()


def make_router(pages: Pages, *, max_unfinished: int) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=_PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    def show_form(
        request: Request, engine: EngineDep, store: ModelStore, values: dict[str, str], *, error: AppError | None = None
    ) -> HTMLResponse:
        with read_only(engine) as session:
            files, names = datasets_of(session), model_names(session, store)
        return pages.render(
            request,
            "evaluation_new.html",
            section="evaluations",
            values=values,
            files=files,
            names=names,
            notice=None if error is None else Notice.of(error),
            wrong_field="" if error is None else field_of(error.param),
            status=200 if error is None else status_of(error),
        )

    @router.get("")
    def list_evaluations(request: Request, session: ReadingDep, after: AfterParam = None) -> HTMLResponse:
        """Lists evaluations, newest first."""
        rows, has_more = repository.list_page(session, after=after, limit=_PAGE)
        return pages.render(
            request,
            "evaluations.html",
            section="evaluations",
            evaluations=[
                (EvaluationObject.of(row, repository.job_of(session, row)), session.get(Dataset, row.file_id)) for row in rows
            ],
            next_after=rows[-1].id if has_more else None,
            is_first=after is None,
        )

    @router.get("/new")
    def new_form(request: Request, engine: EngineDep, store: StoreDep, model: str = "", file: str = "") -> HTMLResponse:
        """Shows the form of a new evaluation."""
        return show_form(request, engine, store, filled({"model": model[:110], "file": file[:64]}))

    @router.post("/new")
    def create(request: Request, engine: EngineDep, store: StoreDep, form: FormData = Depends(_form)) -> Response:
        """Queues an evaluation; what is wrong is said at the form."""
        values = filled(form)
        try:
            asked: dict[str, Any] = {name: values[name] for name in ("model", "file") if name in values}
            body = checked(CreateEvaluation, {**asked, "max_rows": whole(values, "max_rows")})
            with unit_of_work(engine) as session:
                evaluation = service.create(
                    session,
                    model=body.model,
                    file_id=body.file,
                    max_rows=body.max_rows,
                    store=store,
                    bell=request.app.state.bell,
                    max_unfinished=max_unfinished,
                )
        except AppError as error:
            return show_form(request, engine, store, values, error=error)
        return see(f"{_PREFIX}/{evaluation.id}", done="queued")

    @router.get("/{evaluation_id}")
    def show_evaluation(
        request: Request,
        session: ReadingDep,
        blobs: BlobsDep,
        evaluation_id: str,
        rows: Annotated[str, Query(pattern="^(wrong|all)$")] = "wrong",
        offset: Annotated[int, Query(ge=0, le=100_000_000)] = 0,
    ) -> HTMLResponse:
        """Shows the metrics and some rows."""
        evaluation = repository.get(session, evaluation_id)
        job = repository.job_of(session, evaluation)
        shown = _rows(blobs, evaluation, is_wrong_only=rows == "wrong", offset=offset)
        return pages.render(
            request,
            "evaluation.html",
            section="evaluations",
            evaluation=EvaluationObject.of(evaluation, job),
            is_over=JobStatus(job.status) in TERMINAL,
            file=session.get(Dataset, evaluation.file_id),
            rows=shown[:_ROWS],
            which=rows,
            offset=offset,
            next_offset=offset + _ROWS if len(shown) > _ROWS else None,
            previous_offset=max(0, offset - _ROWS) if offset else None,
        )

    @router.post("/{evaluation_id}/cancel")
    def cancel(session: TransactionDep, evaluation_id: str) -> RedirectResponse:
        """Cancels an evaluation."""
        evaluation = repository.get(session, evaluation_id)
        jobs.cancel(session, evaluation.job_id, kind=EVALUATION)
        return see(f"{_PREFIX}/{evaluation_id}", done="cancelling")

    return router


def _rows(blobs: BlobStore, evaluation: Evaluation, *, is_wrong_only: bool, offset: int) -> list[dict[str, Any]]:
    """Returns a page of rows and one more, if there is one."""
    if evaluation.rows_key is None:
        return []
    with blobs.open(evaluation.rows_key) as file:
        rows = (orjson.loads(line) for line in file)
        wanted = (row for row in rows if not (is_wrong_only and row["match"]))
        return list(islice(wanted, offset, offset + _ROWS + 1))
