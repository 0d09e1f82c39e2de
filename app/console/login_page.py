"""Login: an API key in, a session cookie out. Logout."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.access.dependencies import find_caller
from app.access.errors import InvalidKey
from app.access.key_ring import KeyRing
from app.access.sessions import COOKIE, LASTS_S, Sessions
from app.console.forms import filled
from app.console.pages import Pages, at_form
from app.console.refusals import LOGIN_PATH
from app.console.route import ConsoleRoute, FormDep
from app.errors import AppError

_MAX_KEY_CHARS = 200


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix="/console", include_in_schema=False, route_class=ConsoleRoute)

    def show(request: Request, wished: str, error: AppError | None = None) -> HTMLResponse:
        return pages.render(request, "login.html", section="", wished=_own_address(wished), **at_form(error))

    @router.get("/login")
    async def login_form(request: Request, next: str = "/") -> Response:
        """Shows the form, where keys are asked for."""
        return show(request, next) if find_caller(request) is None else RedirectResponse("/", status_code=303)

    @router.post("/login")
    async def log_in(request: Request, form: FormDep) -> Response:
        """Begins a session with a key."""
        values = filled(form)
        ring: KeyRing = request.app.state.key_ring
        sessions: Sessions = request.app.state.sessions
        try:
            key = await ring.get(values.get("key", "")[:_MAX_KEY_CHARS])
        except InvalidKey as error:
            return show(request, values.get("next", "/"), error)
        response = RedirectResponse(_own_address(values.get("next", "/")), status_code=303)
        response.set_cookie(
            COOKIE,
            sessions.begin(key),
            max_age=LASTS_S,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    @router.post("/logout")
    async def log_out(request: Request) -> RedirectResponse:
        """Ends the session."""
        response = RedirectResponse(LOGIN_PATH, status_code=303)
        response.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=request.url.scheme == "https")
        return response

    return router


def _own_address(wished: str) -> str:
    # A browser takes //host and /\host for another host's address.
    is_own = wished.startswith("/") and not wished.startswith(("//", "/\\")) and wished.isprintable()
    return wished[:2000] if is_own else "/"
