"""Aliases: where each points, promotion through its gate, roll-back, candidates, history."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.access import audit
from app.access.dependencies import CallerDep
from app.adapters import aliases, repository
from app.adapters.schemas import ModelObject
from app.console.choices import datasets_of, evaluated_files
from app.console.forms import WrongField, checked, filled, number
from app.console.pages import Notice, Pages, see
from app.console.route import ConsoleRoute, FormDep
from app.db.unit_of_work import after_commit
from app.errors import Conflict
from app.http.dependencies import EngineDep, ReadingDep, TransactionDep
from app.http.errors import status_of
from app.promotions import trials
from app.promotions.changing import change_alias
from app.promotions.schemas import AliasMoveObject, AliasObject, ChangeAlias

PREFIX = "/console/aliases"
_MOVES, _ADAPTERS = 100, 200


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)

    @router.get("/{name}")
    def show_alias(request: Request, session: ReadingDep, name: str) -> HTMLResponse:
        """Shows where an alias points, its gate, its trial and every change that it saw."""
        row = aliases.get_alias(session, name)
        candidate = repository.find_candidate(session, name)
        current = repository.find(session, row.adapter_id)
        trained, _ = repository.list_page(session, after=None, limit=_ADAPTERS)
        before = repository.find_last_move(session, name)
        return pages.render(
            request,
            "alias.html",
            section="models",
            alias=AliasObject.of(row, candidate),
            current=None if current is None else ModelObject.of_adapter(current),
            trial=None if candidate is None else trials.report(session, name),
            previous=None if before is None else before.from_adapter_id,
            moves=[AliasMoveObject.of(move) for move in repository.moves_of(session, name, limit=_MOVES)],
            others=[adapter.id for adapter in trained if adapter.id != row.adapter_id],
            files=datasets_of(session),
            evaluated=evaluated_files(session, row.adapter_id),
        )

    @router.post("")
    async def change(request: Request, caller: CallerDep, engine: EngineDep, form: FormDep) -> Response:
        """Points an alias to an adapter or back, or lets it try one out; a shut gate is shown with its numbers."""
        values = filled(form)
        name = values.get("alias", "")
        try:
            body = checked(ChangeAlias, _change(values))
            await change_alias(
                name,
                body,
                caller=caller,
                engine=engine,
                answers=request.app.state.answers,
                turns=request.app.state.database_turns,
                forget_names=request.app.state.model_names.forget,
            )
        except Conflict as error:
            return pages.render(
                request,
                "promotion_refused.html",
                section="models",
                status=status_of(error),
                notice=Notice.of(error),
                details=error.details or {},
                values={key: value for key, value in values.items() if key not in ("reason", "force", "expected", "form_token")},
            )
        return see(f"{PREFIX}/{name}", done=_done(body))

    @router.post("/{name}/end-trial")
    def end_trial(request: Request, caller: CallerDep, session: TransactionDep, name: str) -> RedirectResponse:
        """Ends a trial."""
        aliases.end_trial(session, name, aliases.Author(caller.author(None)))
        audit.record(session, caller, "alias.trial_ended", name)
        after_commit(session, request.app.state.model_names.forget)
        return see(f"{PREFIX}/{name}", done="trial_ended")

    @router.post("/{name}/delete")
    def delete(request: Request, caller: CallerDep, session: TransactionDep, name: str) -> RedirectResponse:
        """Deletes an alias; its history stays."""
        aliases.delete(session, name, aliases.Author(caller.author(None)))
        audit.record(session, caller, "alias.deleted", name)
        after_commit(session, request.app.state.model_names.forget)
        return see("/console/models", done="deleted")

    return router


def _change(values: dict[str, str]) -> dict[str, Any]:
    """Returns the body of `ChangeAlias` that a form asks for.

    Raises:
        WrongField: a number is none.
    """
    asked: dict[str, Any] = {name: values[name] for name in ("to", "reason", "by", "expected") if name in values}
    if values.get("force") == "yes":
        asked["force"] = True
    if (gate := values.get("gate")) is not None:
        asked["gate"] = "none" if gate == "none" else {"file": gate, "metric": values.get("metric", "exact_match")}
    if (model := values.get("candidate")) is not None:
        percent = number(values, "percent")
        asked["candidate"] = {"model": model, "mode": values.get("mode", "share"), "percent": percent}
    if not asked.get("to") and "candidate" not in asked:
        raise WrongField("Choose an adapter.", param="to")
    return asked


def _done(body: ChangeAlias) -> str:
    if body.candidate is not None:
        return "trial_begun"
    return "rolled_back" if body.to == aliases.PREVIOUS else "promoted"
