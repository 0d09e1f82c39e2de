"""Fine-tuning jobs: list, create with an estimate, watch, pause, resume, cancel."""

import csv
import io
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.blobs.store import BlobStore
from app.console.choices import base_models, datasets_of
from app.console.forms import SPEC_SWITCHES, checked, creation_key, filled, job_values, spec_rows
from app.console.pages import Pages, at_form, see
from app.console.plots import Plot, Series, loss_plot
from app.console.route import ConsoleRoute, FormDep
from app.console.visit import words_of
from app.console.words import Words
from app.datasets.models import Dataset
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import AppError
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, ReadingDep, StoreDep, TransactionDep
from app.jobs import events, repository, service
from app.jobs.estimates import estimate
from app.jobs.idempotency import create_once
from app.jobs.models import Job
from app.jobs.requests import new_job
from app.jobs.schemas import CheckpointObject, CreateJob, EstimateObject, EventObject, JobObject
from app.jobs.states import MOVES, TERMINAL, JobStatus
from app.ml.model_store import ModelStore
from app.ml.spec import PRESETS

_PAGE, _SHOWN_EVENTS, _MOST_METRICS = 20, 30, 20_000
_PREFIX = "/console/jobs"


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
        error: AppError | None = None,
        found: EstimateObject | None = None,
    ) -> HTMLResponse:
        with read_only(engine) as session:
            files = datasets_of(session)
        return pages.render(
            request,
            "job_new.html",
            section="jobs",
            values=values,
            **at_form(error),
            estimate=found,
            files=files,
            bases=base_models(store),
            presets=list(PRESETS),
            spec_rows=spec_rows(),
            switches=SPEC_SWITCHES,
        )

    @router.get("")
    def list_jobs(request: Request, session: ReadingDep, after: AfterParam = None) -> HTMLResponse:
        """Lists jobs, newest first."""
        rows, has_more = repository.list_page(session, kind=repository.FINETUNE, after=after, limit=_PAGE, metadata={})
        now = repository.now(session)
        return pages.render(
            request,
            "jobs.html",
            section="jobs",
            jobs=[JobObject.of(row, queue_position=repository.queue_position(session, row), now=now) for row in rows],
            next_after=rows[-1].id if has_more else None,
            is_first=after is None,
        )

    @router.get("/new")
    def new_form(request: Request, engine: EngineDep, store: StoreDep, training_file: str = "", model: str = "") -> HTMLResponse:
        """Shows the form of a new job."""
        values = filled({"training_file": training_file[:64], "model": model[:100], "preset": default_preset})
        return show_form(request, engine, store, {"model": answerer_base_model, **values})

    @router.post("/new")
    def create(request: Request, engine: EngineDep, store: StoreDep, blobs: BlobsDep, form: FormDep) -> Response:
        """Queues a job, or estimates it; what is wrong is said at the form."""
        values = filled(form)
        try:
            body = checked(CreateJob, job_values(values))
            new = new_job(body, default_preset=default_preset)
            if values.get("wish") == "estimate":
                # Not read-only: the checks hold the files as those of a creation do.
                with unit_of_work(engine) as session:
                    found = estimate(
                        session,
                        new,
                        store=store,
                        blobs=blobs,
                        answerer_base_model=answerer_base_model,
                        memory_limit_gib=memory_limit_gib,
                    )
                return show_form(request, engine, store, values, found=found)
            with unit_of_work(engine) as session:
                job = create_once(
                    session,
                    Job,
                    creation_key(values, body),
                    lambda: service.create_finetune(
                        session,
                        new,
                        store=store,
                        blobs=blobs,
                        bell=request.app.state.bell,
                        max_unfinished=max_unfinished,
                        memory_limit_gib=memory_limit_gib,
                    ),
                )
        except AppError as error:
            return show_form(request, engine, store, values, error=error)
        return see(f"{_PREFIX}/{job.id}", done="queued")

    @router.get("/{job_id}")
    def show_job(request: Request, session: ReadingDep, blobs: BlobsDep, job_id: str) -> HTMLResponse:
        """Shows a job: its progress, curves, scores, checkpoints and story."""
        job = repository.get(session, job_id, kind=repository.FINETUNE)
        metrics = events.list_metrics(session, job_id, limit=_MOST_METRICS)
        story, _ = events.list_newest_first(session, job_id, before_number=None, limit=_SHOWN_EVENTS)
        best = repository.best_checkpoint(session, job_id)
        is_over = JobStatus(job.status) in TERMINAL
        return pages.render(
            request,
            "job.html",
            section="jobs",
            **_state(session, job),
            plots=_curves(_losses(session, blobs, job) or metrics, metrics, words_of(request), is_live=not is_over),
            by_epoch=[one for one in metrics if "eval_loss" in one],
            events=[EventObject.of(event) for event in story],
            checkpoints=[
                CheckpointObject.of(row, is_best=row is best) for row in repository.checkpoints_newest_first(session, job_id)
            ],
            files={
                name: session.get(Dataset, file_id)
                for name, file_id in (("training_file", job.training_file_id), ("validation_file", job.validation_file_id))
                if file_id is not None
            },
        )

    @router.get("/{job_id}/state")
    def show_state(request: Request, session: ReadingDep, job_id: str) -> HTMLResponse:
        """Shows the part of a job's page that changes while it runs."""
        job = repository.get(session, job_id, kind=repository.FINETUNE)
        return pages.render(request, "job_state.html", **_state(session, job))

    @router.post("/{job_id}/pause")
    def pause(session: TransactionDep, job_id: str) -> RedirectResponse:
        """Pauses a job."""
        service.pause(session, job_id)
        return see(f"{_PREFIX}/{job_id}", done="pausing")

    @router.post("/{job_id}/resume")
    def resume(request: Request, session: TransactionDep, job_id: str) -> RedirectResponse:
        """Queues a paused job again."""
        service.resume(session, job_id, bell=request.app.state.bell)
        return see(f"{_PREFIX}/{job_id}", done="resumed")

    @router.post("/{job_id}/cancel")
    def cancel(session: TransactionDep, job_id: str) -> RedirectResponse:
        """Cancels a job."""
        service.cancel(session, job_id, kind=repository.FINETUNE)
        return see(f"{_PREFIX}/{job_id}", done="cancelling")

    return router


def _state(session: Session, job: Job) -> dict[str, Any]:
    """Returns what the changing part of a job's page needs."""
    status = JobStatus(job.status)
    targets = MOVES[status]
    return {
        "job": JobObject.of(job, queue_position=repository.queue_position(session, job), now=repository.now(session)),
        "is_over": status in TERMINAL,
        "can_cancel": JobStatus.CANCELLED in targets and job.wish != "cancel",
        "can_pause": JobStatus.PAUSED in targets and job.wish == "none",
        "can_resume": status is JobStatus.PAUSED,
        "started_at": job.started_at,
    }


def _losses(session: Session, blobs: BlobStore, job: Job) -> list[dict[str, Any]]:
    """Returns every step's loss from a finished job's own file; nothing where there is none. Events tell one step a second."""
    dataset = session.get(Dataset, (job.result_file_ids or {}).get("loss.csv", ""))
    if dataset is None:
        return []
    with blobs.open(dataset.blob_key) as file:
        rows = csv.DictReader(io.TextIOWrapper(file, "utf-8"))
        return [{"step": int(row["step"]), "loss": float(row["loss"])} for row in rows]


def _curves(steps: list[dict[str, Any]], metrics: list[dict[str, Any]], words: Words, *, is_live: bool) -> list[Plot]:
    losses = [one for one in steps if "loss" in one and "step" in one]
    plots = [loss_plot(losses, words, is_live=is_live)]
    scores = [one for one in metrics if "eval_loss" in one]
    if len(scores) > 1:
        epochs = tuple(one["epoch"] for one in scores)
        plots.append(
            Plot(
                key="scores",
                title=words("plot.scores"),
                x_title=words("plot.epoch"),
                y_title="",
                y_percent=True,
                series=tuple(
                    Series(words(f"metric.{name}"), epochs, tuple(one[name] for one in scores))
                    for name in ("exact_match", "set_f1")
                ),
            )
        )
    return plots
