"""The only place where a kind of error becomes a status. Every body: `{"error": {message, type, param, code}}`."""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.errors import AppError, Kind

_MAX_MESSAGE_CHARS = 500
_MAX_BODY_MESSAGE_CHARS, _MAX_PARAM_CHARS = 2_000, 300
_MAX_LISTED = 20
_RETRY_AFTER_S = 2

STATUS_OF: Mapping[Kind, int] = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}
# Overloads are the client's to slow down for, so they are 429 and not 503.
_STATUS_OF_CODE = {
    "queue_full": 429,
    "overloaded": 429,
    "too_busy": 429,
    "too_many_streams": 429,
    "key_rate_exceeded": 429,
    "key_too_busy": 429,
    "idempotency_key_reused": 422,
}
# Of what the framework refuses before any of our code sees it.
CODE_OF_STATUS: Mapping[int, str] = {
    404: "unknown_path",
    405: "method_not_allowed",
    413: "too_large",
    422: "malformed_request",
}
HTTP_ERROR = "http_error"
_TYPE_OF_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


class ErrorDetail(BaseModel):
    """What went wrong and what to do next."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    details: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """The one error body of every route."""

    error: ErrorDetail


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request is wrong; `param` names the field.",
        401: "No API key, or one that is not in force.",
        403: "The key's scope does not include this.",
        404: "No such thing.",
        409: "Its state forbids it.",
        413: "Too large.",
        422: "The body is malformed; `param` names the field.",
        429: "Too much at once; try again after `Retry-After` seconds.",
        500: "A fault of ours; `x-request-id` finds it in the log.",
        503: "A part does not answer now; try again after `Retry-After` seconds.",
    }.items()
}


def status_of(error: AppError) -> int:
    """Returns the status that an error has over HTTP."""
    return _STATUS_OF_CODE.get(error.code, STATUS_OF[error.kind])


def error_response(
    status: int,
    message: str,
    *,
    code: str | None,
    param: str | None = None,
    details: dict[str, object] | None = None,
    retry_after_s: float | None = None,
) -> JSONResponse:
    """Builds the body and the headers that the `openai` client obeys; whatever a message quotes, the body stays small."""
    kind = _TYPE_OF_STATUS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    detail: dict[str, object] = {
        "message": _clean(message)[:_MAX_BODY_MESSAGE_CHARS],
        "type": kind,
        "param": None if param is None else _clean(param)[:_MAX_PARAM_CHARS],
        "code": code,
    }
    if details:
        detail["details"] = details
    headers = {}
    if status == 409:
        # The client retries a 409 by itself; a state does not change by asking again.
        headers["x-should-retry"] = "false"
    if status in (429, 503):
        headers["retry-after"] = str(_RETRY_AFTER_S if retry_after_s is None else max(1, math.ceil(retry_after_s)))
    return JSONResponse({"error": detail}, status_code=status, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Registers the handlers; what is not ours falls through to `app.http.context`, which makes it a 500 without its text.

    They are coroutines, because Starlette would give each call of a plain function a thread: too dear for a refusal.
    """

    @app.exception_handler(AppError)
    async def on_app_error(request: Request, error: AppError) -> JSONResponse:
        return error_response(
            status_of(error),
            error.message,
            code=error.code,
            param=error.param,
            details=error.details,
            retry_after_s=error.retry_after_s,
        )

    @app.exception_handler(RequestValidationError)
    async def on_malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        # Our own body: FastAPI's echoes the input, which may be 10 MB, NaN or half a surrogate pair.
        problems = [
            {"param": _place(problem["loc"]), "message": str(problem["msg"])[:_MAX_MESSAGE_CHARS]}
            for problem in error.errors()[:_MAX_LISTED]
        ]
        first = problems[0] if problems else {"param": None, "message": "The request is malformed."}
        message = f"{first['param']}: {first['message']}" if first["param"] else str(first["message"])
        return error_response(422, message, code="malformed_request", param=first["param"], details={"problems": problems})

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        messages = {404: "There is no such path. The API is described at /docs.", 405: "This path has no such method."}
        message = messages.get(error.status_code, str(error.detail)[:_MAX_MESSAGE_CHARS])
        response = error_response(error.status_code, message, code=CODE_OF_STATUS.get(error.status_code, HTTP_ERROR))
        response.headers.update(error.headers or {})
        return response


def _place(location: tuple[Any, ...]) -> str | None:
    parts = [str(part)[:100] for part in location if part not in ("body", "query", "path", "header")]
    return _clean(".".join(parts)) or None


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
