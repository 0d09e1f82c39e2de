"""What a person with a browser sees whom the guard turned away: the login, or a page that says why."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from app.access.errors import ScopeTooNarrow
from app.console.pages import Pages
from app.console.route import HEADERS
from app.console.visit import Visit
from app.errors import AppError, Unauthenticated

LOGIN_PATH = "/console/login"
_ASK_PATH = "/console/ask"


async def refuse_page(scope: Scope, receive: Receive, send: Send, error: AppError) -> None:
    """Answers instead of a page's route."""
    request = Request(scope, receive)
    # Who is known and may not keeps the menu and the way out.
    scope["state"].setdefault("caller", None)
    visit = request.state.visit = Visit.of(request)
    response = _answer(request, error)
    response.headers.update(HEADERS)
    visit.remember(request, response)
    await response(scope, receive, send)


def _answer(request: Request, error: AppError) -> Response:
    if request.method in ("GET", "HEAD"):
        if isinstance(error, Unauthenticated):
            wished = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(LOGIN_PATH if wished == "/" else f"{LOGIN_PATH}?next={quote(wished[:1000])}", status_code=303)
        if isinstance(error, ScopeTooNarrow) and request.url.path == "/":
            return RedirectResponse(_ASK_PATH, status_code=303)
    pages: Pages = request.app.state.pages
    return pages.error(request, error)
