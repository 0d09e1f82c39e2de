"""Base models, adapters and aliases: what each is, promotion, roll-back, history."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse

from app.adapters import repository, service
from app.adapters.schemas import AliasMoveObject, ModelObject, PointAlias
from app.console.choices import base_models
from app.console.forms import checked, filled
from app.console.pages import Pages, see
from app.console.route import ConsoleRoute
from app.db.unit_of_work import after_commit
from app.errors import NotFound
from app.http.dependencies import AfterParam, BlobsDep, ReadingDep, StoreDep, TransactionDep

_PREFIX = "/console/models"
_PAGE = 20


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

    @router.get(_PREFIX)
    def list_models(request: Request, session: ReadingDep, store: StoreDep, after: AfterParam = None) -> HTMLResponse:
        """Lists aliases, adapters and base models."""
        rows, has_more = repository.list_page(session, after=after, limit=_PAGE)
        return pages.render(
            request,
            "models.html",
            section="models",
            aliases=repository.list_aliases(session),
            adapters=[(ModelObject.of_adapter(row), repository.aliases_of(session, row.id)) for row in rows],
            bases=base_models(store),
            next_after=rows[-1].id if has_more else None,
            is_first=after is None,
        )

    @router.get(_PREFIX + "/{adapter_id}")
    def show_adapter(request: Request, session: ReadingDep, adapter_id: str) -> HTMLResponse:
        """Shows an adapter, what it was made of, and the form that promotes it."""
        adapter = repository.find(session, adapter_id)
        if adapter is None:
            raise NotFound(f"There is no adapter {adapter_id!r}. Choose one from the list of models.")
        return pages.render(
            request,
            "adapter.html",
            section="models",
            adapter=ModelObject.of_adapter(adapter),
            name=adapter.name,
            pointing=repository.aliases_of(session, adapter_id),
            aliases=[alias.name for alias in repository.list_aliases(session)],
        )

    @router.post(_PREFIX + "/{adapter_id}/delete")
    def delete(request: Request, session: TransactionDep, blobs: BlobsDep, adapter_id: str) -> RedirectResponse:
        """Deletes an adapter that nothing needs."""
        key = service.delete(session, adapter_id, users_of=request.app.state.adapter_users)
        after_commit(session, request.app.state.model_names.forget)
        if key is not None:
            after_commit(session, lambda: blobs.delete(key))
        return see(_PREFIX, done="deleted")

    @router.get("/console/aliases/{name}")
    def show_alias(request: Request, session: ReadingDep, name: str) -> HTMLResponse:
        """Shows where an alias points and every move that it made."""
        alias = service.get_alias(session, name)
        moves = [AliasMoveObject.of(move) for move in repository.moves_of(session, name)]
        trained, _ = repository.list_page(session, after=None, limit=200)
        current = repository.find(session, alias.adapter_id)
        return pages.render(
            request,
            "alias.html",
            section="models",
            alias=alias,
            current=None if current is None else ModelObject.of_adapter(current),
            moves=moves,
            previous=moves[0].from_model if moves else None,
            adapters=[adapter.id for adapter in trained],
        )

    @router.post("/console/aliases")
    def point(
        request: Request,
        session: TransactionDep,
        alias: Annotated[str, Form(max_length=100)],
        to: Annotated[str, Form(max_length=110)],
        reason: Annotated[str, Form(max_length=1000)] = "",
    ) -> RedirectResponse:
        """Points an alias to an adapter or back; answers follow at once."""
        values: dict[str, Any] = filled({"to": to, "reason": reason})
        body = checked(PointAlias, values)
        pointed = service.point_alias(session, alias.strip(), to=body.to, reason=body.reason)
        after_commit(session, request.app.state.model_names.forget)
        return see(f"/console/aliases/{pointed.name}", done="rolled_back" if body.to == service.PREVIOUS else "promoted")

    return router
