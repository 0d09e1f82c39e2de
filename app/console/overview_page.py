"""The first page: is everything there, what runs, what answers, and what to do next."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse

from app.adapters import repository as adapters
from app.console.pages import Pages
from app.console.route import ConsoleRoute
from app.datasets import repository as datasets
from app.datasets.service import RESULTS_PURPOSE
from app.evaluations import repository as evaluations
from app.http.dependencies import ReadingDep
from app.http.health import Readiness, ReadinessChecks
from app.jobs import repository as jobs
from app.jobs.schemas import JobObject

_SHOWN = 5


def make_router(pages: Pages, readiness: ReadinessChecks) -> APIRouter:
    """Builds the route."""
    router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

    async def check() -> Readiness:
        return await readiness.run()

    @router.get("/")
    def show_overview(request: Request, session: ReadingDep, ready: Annotated[Readiness, Depends(check)]) -> HTMLResponse:
        """Shows the parts, the newest jobs and the aliases."""
        files, _ = datasets.list_page(session, purpose=None, after=None, limit=1, other_than=RESULTS_PURPOSE)
        newest, _ = jobs.list_page(session, kind=jobs.FINETUNE, after=None, limit=_SHOWN, metadata={})
        trained, _ = adapters.list_page(session, after=None, limit=1)
        evaluated, _ = evaluations.list_page(session, after=None, limit=1)
        aliases = adapters.list_aliases(session)
        steps = [
            ("datasets", "/console/datasets", bool(files)),
            ("jobs", "/console/jobs/new", bool(trained)),
            ("evaluations", "/console/evaluations/new", bool(evaluated)),
            ("models", "/console/models", bool(aliases)),
            ("ask", "/console/ask", False),
        ]
        return pages.render(
            request,
            "overview.html",
            section="overview",
            ready=ready,
            steps=steps,
            is_new=not aliases,
            jobs=[JobObject.of(job, queue_position=jobs.queue_position(session, job)) for job in newest],
            counts=jobs.count_by_status(session),
            aliases=aliases,
        )

    return router
