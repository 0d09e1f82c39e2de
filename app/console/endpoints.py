"""All pages together."""

from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import HTMLResponse

from app.console import (
    alias_pages,
    answer_pages,
    ask_page,
    audit_page,
    codebook_pages,
    dataset_pages,
    description_pages,
    evaluation_pages,
    experiment_pages,
    export_pages,
    job_pages,
    key_pages,
    login_page,
    model_pages,
    overview_page,
    review_pages,
    static_files,
)
from app.console.pages import Pages
from app.console.route import ConsoleRoute
from app.console.static_files import StaticFiles
from app.errors import NotFound
from app.http.health import ReadinessChecks


@dataclass(frozen=True, kw_only=True)
class ConsoleLimits:
    """What the pages must know of the deployment."""

    base_model: str
    """What the answerer holds."""
    max_upload_bytes: int
    max_question_chars: int
    max_unfinished_jobs: int
    memory_limit_gib: float | None
    default_preset: str
    keeps_questions: bool
    """Whether the answer log holds the texts of questions."""


def install_console(app: FastAPI, limits: ConsoleLimits, readiness: ReadinessChecks) -> None:
    """Adds the pages to the API; call it last, because it answers every unknown path below `/console`."""
    files = StaticFiles()
    pages = app.state.pages = Pages(files)
    app.include_router(static_files.make_router(files))
    app.include_router(description_pages.make_router(pages))
    app.include_router(login_page.make_router(pages))
    app.include_router(overview_page.make_router(pages, readiness))
    app.include_router(dataset_pages.make_router(pages, max_upload_bytes=limits.max_upload_bytes))
    app.include_router(
        job_pages.make_router(
            pages,
            max_unfinished=limits.max_unfinished_jobs,
            answerer_base_model=limits.base_model,
            memory_limit_gib=limits.memory_limit_gib,
            default_preset=limits.default_preset,
        )
    )
    app.include_router(evaluation_pages.make_router(pages, max_unfinished=limits.max_unfinished_jobs))
    app.include_router(
        experiment_pages.make_router(
            pages,
            max_unfinished=limits.max_unfinished_jobs,
            answerer_base_model=limits.base_model,
            memory_limit_gib=limits.memory_limit_gib,
            default_preset=limits.default_preset,
        )
    )
    app.include_router(model_pages.make_router(pages))
    app.include_router(alias_pages.make_router(pages))
    app.include_router(export_pages.make_router(pages, max_unfinished=limits.max_unfinished_jobs))
    app.include_router(codebook_pages.make_router(pages))
    app.include_router(ask_page.make_router(pages, default_model=limits.base_model, max_question_chars=limits.max_question_chars))
    app.include_router(answer_pages.make_router(pages))
    app.include_router(review_pages.make_router(pages, keeps_questions=limits.keeps_questions))
    app.include_router(key_pages.make_router(pages))
    app.include_router(audit_page.make_router(pages))
    app.include_router(_unknown_paths())


def _unknown_paths() -> APIRouter:
    router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

    @router.get("/console/{path:path}")
    def unknown(request: Request, path: str) -> HTMLResponse:
        """Says that there is no such page."""
        raise NotFound("There is no such page. Begin at the overview.")

    return router
