"""The audit log: who changed what customers get or who gets in, and when. For the scope admin."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from app.access import repository
from app.access.schemas import AuditEntryObject
from app.console.pages import Pages
from app.console.route import ConsoleRoute
from app.http.dependencies import ReadingDep

_PREFIX = "/console/audit"
_PAGE = 50


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=_PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    @router.get("")
    def list_acts(
        request: Request, session: ReadingDep, after: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None
    ) -> HTMLResponse:
        """Lists admin acts, the newest first, those below a number."""
        rows = repository.audit_page(session, before=after, limit=_PAGE + 1)
        return pages.render(
            request,
            "audit.html",
            section="keys",
            acts=[AuditEntryObject.of(row) for row in rows[:_PAGE]],
            next_after=str(rows[_PAGE - 1].number) if len(rows) > _PAGE else None,
            is_first=after is None,
        )

    return router
