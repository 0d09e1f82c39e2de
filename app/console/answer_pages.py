"""The answer log: what was answered lately, the least confident first or the newest, and how confidences are spread."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from app.answers import repository
from app.answers.log_schemas import LoggedAnswerObject
from app.console.choices import model_names
from app.console.pages import Pages
from app.console.plots import confidence_plot
from app.console.route import ConsoleRoute
from app.console.visit import words_of
from app.http.dependencies import AfterParam, ReadingDep, StoreDep

_PREFIX = "/console/answers"
_PAGE, _PLOTTED = 25, 1_000


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=_PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    @router.get("")
    def list_answers(
        request: Request,
        session: ReadingDep,
        store: StoreDep,
        model: Annotated[str, Query(max_length=110)] = "",
        show: Annotated[str, Query(pattern="^(all|handed_over|unsure)$")] = "all",
        after: AfterParam = None,
    ) -> HTMLResponse:
        """Lists the answer log, newest first."""
        wanted = repository.AnswerFilter(
            model=model or None,
            fallback=True if show == "handed_over" else None,
            max_confidence=0.5 if show == "unsure" else None,
        )
        rows, has_more = repository.list_page(session, wanted, after=after, limit=_PAGE)
        plotted, _ = repository.list_page(session, wanted, after=None, limit=_PLOTTED)
        return pages.render(
            request,
            "answers.html",
            section="answers",
            answers=[LoggedAnswerObject.of(row) for row in rows],
            names=model_names(session, store),
            model=model,
            show=show,
            next_after=rows[-1].id if has_more else None,
            is_first=after is None,
            plot=confidence_plot([row.confidence for row in plotted], words_of(request)),
        )

    return router
