"""What a request says while the database is away. Apart from `errors`, because the answerer has no SQLAlchemy."""

import structlog
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from app.db.outage import DATABASE_AWAY
from app.http.errors import error_response

_log = structlog.get_logger()


def install_database_error_handlers(app: FastAPI) -> None:
    """Turns a database that does not answer into a 503."""

    async def on_database_away(request: Request, error: Exception) -> JSONResponse:
        _log.error("database_unavailable", error=type(error).__name__)
        return error_response(503, "The database does not answer. Try again in a moment.", code="database_unavailable")

    for error_class in DATABASE_AWAY:
        app.add_exception_handler(error_class, on_database_away)
