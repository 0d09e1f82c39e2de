"""Experiments: list, create, watch the arms, compare them with intervals, tests and curves."""

from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.console.choices import base_models, datasets_of
from app.console.forms import WrongField, checked, creation_key, filled, number, whole
from app.console.pages import Pages, at_form, see
from app.console.plots import Plot, Series
from app.console.route import ConsoleRoute, FormDep
from app.console.visit import words_of
from app.console.words import Words
from app.datasets.models import Dataset
from app.db.unit_of_work import read_only
from app.errors import AppError
from app.experiments import repository, service
from app.experiments.comparison import ComparedArm, compare
from app.experiments.repository import RUNNING
from app.experiments.schemas import CreateExperiment, ExperimentObject
from app.experiments.starting import start_experiment
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, ReadingDep, StoreDep, TransactionDep
from app.ml.model_store import ModelStore
from app.ml.spec import PRESETS

_PREFIX = "/console/experiments"
_PAGE = 20
KINDS = ("ramp", "hyperparameters", "base_models")


def make_router(
    pages: Pages, *, max_unfinished: int, answerer_base_model: str, memory_limit_gib: float | None, default_preset: str
) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=_PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    def show_form(
        request: Request,
        engine: EngineDep,
        store: ModelStore,
        values: dict[str, str],
        *,
        models: list[str],
        error: AppError | None = None,
    ) -> HTMLResponse:
        with read_only(engine) as session:
            files = datasets_of(session)
        return pages.render(
            request,
            "experiment_new.html",
            section="experiments",
            values=values,
            models=models,
            **at_form(error),
            files=files,
            bases=base_models(store),
            presets=list(PRESETS),
            kinds=KINDS,
        )

    @router.get("")
    def list_experiments(request: Request, session: ReadingDep, after: AfterParam = None) -> HTMLResponse:
        """Lists experiments, newest first."""
        rows, has_more = repository.list_page(session, after=after, limit=_PAGE)
        arms = repository.arms_of(session, [row.id for row in rows])
        return pages.render(
            request,
            "experiments.html",
            section="experiments",
            experiments=[ExperimentObject.of(row, arms[row.id]) for row in rows],
            next_after=rows[-1].id if has_more else None,
            is_first=after is None,
        )

    @router.get("/new")
    def new_form(request: Request, engine: EngineDep, store: StoreDep, training_file: str = "") -> HTMLResponse:
        """Shows the form of a new experiment."""
        values = {"model": answerer_base_model, "preset": default_preset, "kind": KINDS[0]}
        return show_form(request, engine, store, values | filled({"training_file": training_file[:64]}), models=[])

    @router.post("/new")
    def create(request: Request, engine: EngineDep, store: StoreDep, blobs: BlobsDep, form: FormDep) -> Response:
        """Queues every arm of an experiment; what is wrong is said at the form."""
        values, models = filled(form), [str(name) for name in form.getlist("models")]
        try:
            body = checked(CreateExperiment, _asked(values, models))
            experiment = start_experiment(
                body,
                engine=engine,
                store=store,
                blobs=blobs,
                bell=request.app.state.bell,
                uploads_dir=request.app.state.uploads_dir,
                max_unfinished=max_unfinished,
                memory_limit_gib=memory_limit_gib,
                default_preset=default_preset,
                key=creation_key(values, body),
            )
        except AppError as error:
            return show_form(request, engine, store, values, models=models, error=error)
        return see(f"{_PREFIX}/{experiment.id}", done="queued")

    @router.get("/{experiment_id}")
    def show_experiment(request: Request, session: ReadingDep, blobs: BlobsDep, experiment_id: str) -> HTMLResponse:
        """Shows the arms side by side, as far as they have come."""
        row = repository.get(session, experiment_id)
        comparison = compare(session, row, blobs)
        return pages.render(
            request,
            "experiment.html",
            section="experiments",
            experiment=ExperimentObject.of(row, repository.arms_of(session, [experiment_id])[experiment_id]),
            is_over=row.status != RUNNING,
            compared={arm.number: arm for arm in comparison.arms},
            plots=_plots(list(comparison.arms), words_of(request)),
            files={
                name: session.get(Dataset, file_id)
                for name, file_id in (("training_file", row.training_file_id), ("test_file", row.test_file_id))
            },
        )

    @router.post("/{experiment_id}/cancel")
    def cancel(session: TransactionDep, experiment_id: str) -> RedirectResponse:
        """Cancels an experiment and its jobs."""
        service.cancel(session, experiment_id)
        return see(f"{_PREFIX}/{experiment_id}", done="cancelling")

    return router


def _asked(values: dict[str, str], models: list[str]) -> dict[str, Any]:
    """Returns the body of `CreateExperiment` that the form asks for.

    Raises:
        WrongField: a number or a line of the grid cannot be read.
    """
    kind = values.get("kind", KINDS[0])
    hyperparameters: dict[str, Any] = {"preset": values["preset"]} if "preset" in values else {}
    if (epochs := number(values, "num_train_epochs")) is not None:
        hyperparameters["num_train_epochs"] = epochs
    for name, given in parse_grid(values.get("fixed", ""), field="fixed").items():
        hyperparameters[name] = given[0] if len(given) == 1 else given
    names = ("name", "training_file", "test_file", "validation_file", "suffix")
    asked: dict[str, Any] = {name: values[name] for name in names if name in values}
    asked |= {"hyperparameters": hyperparameters, "max_rows": whole(values, "max_rows"), "seed": whole(values, "seed", default=0)}
    match kind:
        case "ramp":
            asked["vary"] = {"kind": kind, "sizes": parse_sizes(values.get("sizes", ""))}
        case "hyperparameters":
            asked["vary"] = {"kind": kind, "grid": parse_grid(values.get("grid", ""))}
        case _:
            asked["vary"] = {"kind": kind, "models": models}
    if kind != "base_models":
        asked["model"] = values.get("model")
    return asked


def parse_sizes(text: str) -> list[int]:
    """Returns the numbers of rows in `0, 100, 400`.

    Raises:
        WrongField: one of them is none.
    """
    parts = [part.strip() for part in text.replace("，", ",").replace("、", ",").split(",") if part.strip()]
    return [whole({"sizes": part}, "sizes") or 0 for part in parts]


def parse_grid(text: str, *, field: str = "grid") -> dict[str, list[Any]]:
    """Returns the hyperparameters and their values in a field's lines such as `learning_rate: 5e-5, 2e-4`.

    Raises:
        WrongField: a line has no name or no value.
    """
    grid: dict[str, list[Any]] = {}
    for line in text.splitlines():
        name, colon, values = line.replace("：", ":").replace("，", ",").partition(":")
        if not line.strip():
            continue
        given = [_value(part.strip()) for part in values.split(",") if part.strip()]
        if not colon or not name.strip() or not given:
            raise WrongField(
                f"{line.strip()[:100]!r} must be a name, a colon and values: learning_rate: 5e-5, 2e-4", param="grid"
            )
        grid[name.strip()] = given
    return grid


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _plots(arms: list[ComparedArm], words: Words) -> list[Plot]:
    measured = [arm for arm in arms if "exact_match" in arm.intervals]
    scores = Series(
        words("metric.exact_match"),
        tuple(arm.label for arm in measured),
        tuple(arm.metrics["exact_match"] for arm in measured),
        "bars",
        low=tuple(arm.intervals["exact_match"][0] for arm in measured),
        high=tuple(arm.intervals["exact_match"][1] for arm in measured),
    )
    losses = tuple(
        Series(arm.label, tuple(epoch for _, epoch, _ in arm.loss), tuple(loss for _, _, loss in arm.loss))
        for arm in arms
        if arm.loss
    )
    plots = [
        Plot(key="arms", title=words("plot.arms"), x_title="", y_title="", y_percent=True, across=True, series=(scores,)),
        Plot(key="losses", title=words("plot.losses"), x_title=words("plot.epoch"), y_title="", series=losses),
    ]
    return [plot for plot in plots if not plot.is_empty]
