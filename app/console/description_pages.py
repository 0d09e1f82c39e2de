"""The API's description for reading. FastAPI's own pages fetch their scripts from a host that many of ours cannot reach."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from app.console.pages import Pages
from app.console.route import CONTENT_SECURITY_POLICY, HEADERS, ConsoleRoute


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes; both read `/openapi.json`."""
    router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

    @router.get("/docs")
    def show_operations(request: Request) -> HTMLResponse:
        """Shows the operations, each with a form to try it out (Swagger UI)."""
        return pages.render(request, "operations.html")

    @router.get("/redoc")
    def show_reference(request: Request) -> HTMLResponse:
        """Shows the reference on one long page (ReDoc)."""
        response = pages.render(request, "reference.html")
        # Its search runs in a worker that it makes of its own script.
        response.headers[CONTENT_SECURITY_POLICY] = f"{HEADERS[CONTENT_SECURITY_POLICY]}; worker-src blob:"
        return response

    return router
