"""Base models, adapters and aliases: what there is, and what each adapter was made of."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse

from app.access import audit
from app.access.dependencies import CallerDep
from app.adapters import repository, service
from app.adapters.schemas import ModelObject
from app.console.choices import base_models, datasets_of, evaluated_files
from app.console.export_pages import FORMATS
from app.console.pages import Pages, see
from app.console.route import ConsoleRoute
from app.db.unit_of_work import after_commit
from app.errors import NotFound
from app.http.dependencies import AfterParam, BlobsDep, ReadingDep, StoreDep, TransactionDep
from app.promotions.schemas import AliasObject

_PREFIX = "/console/models"
_PAGE = 20


def make_router(pages: Pages) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

    @router.get(_PREFIX)
    def list_models(request: Request, session: ReadingDep, store: StoreDep, after: AfterParam = None) -> HTMLResponse:
        """Lists aliases, adapters and base models."""
        rows, has_more = repository.list_page(session, after=after, limit=_PAGE)
        pointing = repository.list_aliases(session)
        candidates = repository.candidates_of(session, [alias.name for alias in pointing])
        return pages.render(
            request,
            "models.html",
            section="models",
            aliases=[AliasObject.of(row, candidates.get(row.name)) for row in pointing],
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
            files=datasets_of(session),
            evaluated=evaluated_files(session, adapter_id),
            formats=FORMATS,
        )

    @router.post(_PREFIX + "/{adapter_id}/delete")
    def delete(
        request: Request, caller: CallerDep, session: TransactionDep, blobs: BlobsDep, adapter_id: str
    ) -> RedirectResponse:
        """Deletes an adapter that nothing needs."""
        key = service.delete(session, adapter_id, users_of=request.app.state.adapter_users)
        audit.record(session, caller, "adapter.deleted", adapter_id)
        after_commit(session, request.app.state.model_names.forget)
        if key is not None:
            after_commit(session, lambda: blobs.delete(key))
        return see(_PREFIX, done="deleted")

    return router
