"""The route of every page: guards forms, turns errors into pages, and sets the headers that keep a browser safe."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import structlog
from fastapi import Depends
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import OperationalError, TimeoutError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.console.pages import Pages
from app.console.visit import Visit
from app.errors import AppError, Internal, InvalidInput, TooLarge, Unavailable

_log = structlog.get_logger()
CONTENT_SECURITY_POLICY = "content-security-policy"
HEADERS = {
    # plotly writes style attributes; scripts come from files of ours alone.
    CONTENT_SECURITY_POLICY: (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


async def _form(request: Request) -> FormData:
    # Read once already, for its token.
    return await request.form()


FormDep = Annotated[FormData, Depends(_form)]


class DatabaseAway(Unavailable):
    """The database does not answer a page."""

    code = "console_database_unavailable"


class ConsoleRoute(APIRoute):
    """A route whose errors are pages in the visitor's language."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the guarded handler."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            pages: Pages = request.app.state.pages
            visit = request.state.visit = Visit.of(request)
            try:
                if request.method == "POST":
                    await visit.check_form(request)
                response = await handle(request)
            except AppError as error:
                response = pages.error(request, error)
            except RequestValidationError as error:
                response = pages.error(request, _malformed(error))
            except HTTPException as error:
                response = pages.error(request, (TooLarge if error.status_code == 413 else InvalidInput)(str(error.detail)))
            except (OperationalError, TimeoutError) as error:
                _log.error("database_unavailable", error=type(error).__name__)
                response = pages.error(request, DatabaseAway("The database does not answer. Try again in a moment."))
            except Exception as error:
                # Logged as `app.http.context` would, which answers in JSON.
                _log.error("unhandled_error", exc_info=error)
                response = pages.error(request, Internal("Something went wrong on our side. The log has the details."))
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            visit.remember(request, response)
            return response

        return guarded


def _malformed(error: RequestValidationError) -> InvalidInput:
    first = error.errors()[0]
    field = str(first["loc"][-1])[:100] if first["loc"] else None
    return InvalidInput(f"{field}: {str(first['msg'])[:300]}", param=field)
