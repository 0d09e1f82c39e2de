"""Evaluations: list, create, metrics with their intervals and plots, the rows that went wrong."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.console.choices import datasets_of, model_names
from app.console.forms import checked, creation_key, filled, number, whole
from app.console.pages import Pages, at_form, see
from app.console.plots import Plot, Series, bars
from app.console.route import ConsoleRoute, FormDep
from app.console.visit import words_of
from app.console.words import Words
from app.datasets.models import Dataset
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import AppError
from app.evaluations import repository, service
from app.evaluations.models import Evaluation
from app.evaluations.schemas import CreateEvaluation, EvaluationObject, EvaluationRowObject
from app.http.dependencies import AfterParam, EngineDep, ReadingDep, StoreDep, TransactionDep
from app.jobs import service as jobs
from app.jobs.idempotency import create_once
from app.jobs.repository import EVALUATION
from app.jobs.states import TERMINAL, JobStatus
from app.ml.model_store import ModelStore

_PREFIX = "/console/evaluations"
_PAGE, _ROWS, _BARS = 20, 25, 20
_BOUNDED = ("exact_match", "ordered_match", "set_f1", "micro_f1", "macro_f1_by_category")


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
            **at_form(error),
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
                (EvaluationObject.of(evaluation, job), session.get(Dataset, evaluation.file_id)) for evaluation, job in rows
            ],
            next_after=rows[-1][0].id if has_more else None,
            is_first=after is None,
        )

    @router.get("/new")
    def new_form(request: Request, engine: EngineDep, store: StoreDep, model: str = "", file: str = "") -> HTMLResponse:
        """Shows the form of a new evaluation."""
        return show_form(request, engine, store, filled({"model": model[:110], "file": file[:64]}))

    @router.post("/new")
    def create(request: Request, engine: EngineDep, store: StoreDep, form: FormDep) -> Response:
        """Queues an evaluation; what is wrong is said at the form."""
        values = filled(form)
        try:
            asked: dict[str, Any] = {name: values[name] for name in ("model", "file") if name in values}
            wishes = {name: number(values, name) for name in ("threshold", "precision")}
            body = checked(CreateEvaluation, {**asked, **wishes, "max_rows": whole(values, "max_rows")})
            with unit_of_work(engine) as session:
                evaluation = create_once(
                    session,
                    Evaluation,
                    creation_key(values, body),
                    lambda: service.create(
                        session,
                        model=body.model,
                        file_id=body.file,
                        max_rows=body.max_rows,
                        threshold=body.threshold,
                        precision=body.precision,
                        store=store,
                        bell=request.app.state.bell,
                        max_unfinished=max_unfinished,
                    ),
                )
        except AppError as error:
            return show_form(request, engine, store, values, error=error)
        return see(f"{_PREFIX}/{evaluation.id}", done="queued")

    @router.get("/{evaluation_id}")
    def show_evaluation(
        request: Request,
        session: ReadingDep,
        evaluation_id: str,
        rows: Annotated[str, Query(pattern="^(wrong|all)$")] = "wrong",
        after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    ) -> HTMLResponse:
        """Shows the metrics and some rows."""
        evaluation = repository.get(session, evaluation_id)
        job = repository.job_of(session, evaluation)
        shown, has_more = repository.page_rows(
            session, evaluation_id, after_row=after, is_right=False if rows == "wrong" else None, limit=_ROWS
        )
        return pages.render(
            request,
            "evaluation.html",
            section="evaluations",
            evaluation=EvaluationObject.of(evaluation, job),
            is_over=JobStatus(job.status) in TERMINAL,
            file=session.get(Dataset, evaluation.file_id),
            rows=[EvaluationRowObject.of(row) for row in shown],
            which=rows,
            next_after=shown[-1].row if has_more else None,
            is_first=after == 0,
            plots=_plots(evaluation.metrics or {}, words_of(request)),
        )

    @router.post("/{evaluation_id}/cancel")
    def cancel(session: TransactionDep, evaluation_id: str) -> RedirectResponse:
        """Cancels an evaluation."""
        evaluation = repository.get(session, evaluation_id)
        jobs.cancel(session, evaluation.job_id, kind=EVALUATION)
        return see(f"{_PREFIX}/{evaluation_id}", done="cancelling")

    return router


def _plots(metrics: Mapping[str, Any], words: Words) -> list[Plot]:
    """Plots what the metrics hold; those of evaluations from before there were intervals hold little."""
    intervals, curve = metrics.get("intervals", {}), metrics.get("coverage_curve", [])
    names = [name for name in _BOUNDED if name in intervals]
    coverage = tuple(point["coverage"] for point in curve)
    plots = [
        Plot(
            key="intervals",
            title=words("plot.intervals"),
            x_title="",
            y_title="",
            y_percent=True,
            across=True,
            series=(
                Series(
                    words("plot.score"),
                    tuple(words(f"metric.{name}") for name in names),
                    tuple(metrics[name] for name in names),
                    "bars",
                    low=tuple(intervals[name][0] for name in names),
                    high=tuple(intervals[name][1] for name in names),
                ),
            ),
        ),
        Plot(
            key="coverage",
            title=words("plot.coverage"),
            x_title=words("plot.coverage_share"),
            y_title="",
            y_percent=True,
            x_percent=True,
            series=(
                Series(words("metric.exact_match"), coverage, tuple(point["exact_match"] for point in curve)),
                Series(words("plot.lowest_confidence"), coverage, tuple(point["confidence"] for point in curve)),
            ),
        ),
        bars(
            "categories",
            words("plot.category_f1"),
            [
                (words.find(f"category.{name}", name), counts["f1"])
                for name, counts in list(metrics.get("by_category", {}).items())[:_BARS]
            ],
            x_title="F1",
            name="F1",
            is_percent=True,
        ),
    ]
    return [plot for plot in plots if not plot.is_empty]
