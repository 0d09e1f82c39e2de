"""API keys: who has one, a new one whose secret is shown once, and revocation. For the scope admin."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse

from app.access import repository, service
from app.access.dependencies import CallerDep
from app.access.models import ApiKey
from app.access.schemas import CreateKey, KeyObject
from app.access.scopes import Scope
from app.access.service import MAX_KEYS_IN_FORCE
from app.console.forms import checked, filled, number, whole
from app.console.pages import Pages, at_form, see
from app.console.route import ConsoleRoute, FormDep
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import AppError
from app.http.dependencies import EngineDep, TransactionDep

ENDINGS = ("over", "revoked")
_PREFIX = "/console/keys"


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=_PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    def show_list(
        request: Request,
        engine: EngineDep,
        *,
        with_ended: bool = False,
        values: dict[str, str] | None = None,
        error: AppError | None = None,
    ) -> HTMLResponse:
        with read_only(engine) as session:
            now = repository.now(session)
            if with_ended:
                rows = repository.list_all(session, limit=MAX_KEYS_IN_FORCE)
            else:
                rows = repository.list_in_force(session, limit=MAX_KEYS_IN_FORCE)[::-1]
            keys = [(KeyObject.of(row), _find_ending(row, now)) for row in rows]
        return pages.render(
            request,
            "keys.html",
            section="keys",
            keys=keys,
            with_ended=with_ended,
            most=MAX_KEYS_IN_FORCE,
            scopes=list(Scope),
            values=values or {},
            **at_form(error),
        )

    @router.get("")
    def list_keys(request: Request, engine: EngineDep, ended: bool = False) -> HTMLResponse:
        """Lists the keys in force, or all, the newest first; never a secret."""
        return show_list(request, engine, with_ended=ended)

    @router.post("")
    def create(request: Request, caller: CallerDep, engine: EngineDep, form: FormDep) -> HTMLResponse:
        """Makes a key and shows its secret in this reply alone; the name keeps a reload from making another."""
        values = filled(form)
        try:
            body = checked(CreateKey, _asked(values))
            with unit_of_work(engine) as session:
                created = service.create(session, body.wish(), caller)
                key = KeyObject.of(created.key)
        except AppError as error:
            return show_list(request, engine, values=values, error=error)
        return pages.render(request, "key_created.html", section="keys", key=key, secret=created.secret)

    @router.post("/{key_id}/revoke")
    def revoke(session: TransactionDep, caller: CallerDep, key_id: str) -> RedirectResponse:
        """Ends a key for good."""
        service.revoke(session, key_id, caller)
        return see(_PREFIX, done="revoked")

    return router


def _asked(values: dict[str, str]) -> dict[str, Any]:
    """Returns the body of `CreateKey` that the form asks for.

    Raises:
        WrongField: a number is none.
    """
    asked: dict[str, Any] = {name: values[name] for name in ("name", "scope") if name in values}
    asked["days"] = number(values, "days")
    asked |= {name: whole(values, name) for name in ("requests_per_minute", "max_concurrent")}
    return asked


def _find_ending(row: ApiKey, now: float) -> str | None:
    if row.revoked_at is not None:
        return "revoked"
    return "over" if row.expires_at is not None and row.expires_at <= now else None
