"""`/health/live`, `/health/ready`, `/metrics`."""

from collections.abc import Awaitable, Callable
from typing import Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel
from starlette.responses import JSONResponse


class CheckResult(BaseModel):
    """One part of the product."""

    ok: bool
    required: bool
    """A part that is not required does not make the API unready."""
    message: str | None = None
    """What is missing and what to do."""


class Readiness(BaseModel):
    """Whether requests can be served, part by part."""

    status: str
    access: Literal["keys", "open"]
    """Whether API keys are asked for; `open`: whoever reaches the API may do everything."""
    checks: dict[str, CheckResult]


class ReadinessChecks:
    """Runs named checks; a check returns None when all is well, else what to do."""

    def __init__(self, *, asks_for_keys: bool = False) -> None:
        self._access: Literal["keys", "open"] = "keys" if asks_for_keys else "open"
        self._threaded: dict[str, tuple[Callable[[], str | None], bool]] = {}
        self._awaited: dict[str, tuple[Callable[[], Awaitable[str | None]], bool]] = {}

    def add(self, name: str, check: Callable[[], str | None], *, required: bool) -> None:
        """Adds a check that may block; it runs in a thread."""
        self._threaded[name] = (check, required)

    def add_async(self, name: str, check: Callable[[], Awaitable[str | None]], *, required: bool) -> None:
        """Adds a check of the event loop."""
        self._awaited[name] = (check, required)

    async def run(self) -> Readiness:
        """Runs every check; one that raises has failed."""
        checks: dict[str, CheckResult] = {}
        for name, (check, required) in self._threaded.items():
            try:
                message = await run_sync(check)
            except Exception as error:
                message = f"The check failed: {type(error).__name__}."
            checks[name] = CheckResult(ok=message is None, required=required, message=message)
        for name, (awaitable, required) in self._awaited.items():
            try:
                message = await awaitable()
            except Exception as error:
                message = f"The check failed: {type(error).__name__}."
            checks[name] = CheckResult(ok=message is None, required=required, message=message)
        ready = all(result.ok for result in checks.values() if result.required)
        return Readiness(status="ready" if ready else "not_ready", access=self._access, checks=checks)


def make_router(readiness: ReadinessChecks, registry: CollectorRegistry) -> APIRouter:
    """Builds the routes; `registry` holds this app's own metrics beside the process's."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Says that the process runs."""
        return {"status": "live"}

    @router.get("/health/ready", response_model=Readiness, responses={503: {"model": Readiness}})
    async def ready() -> JSONResponse:
        """Says whether requests can be served, part by part, and what to do about what is missing."""
        result = await readiness.run()
        return JSONResponse(result.model_dump(), status_code=200 if result.status == "ready" else 503)

    @router.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest() + generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
