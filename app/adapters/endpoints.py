"""`/v1/models`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.access import audit
from app.access.dependencies import CallerDep
from app.adapters import repository, service
from app.adapters.schemas import ModelList, ModelObject
from app.db.unit_of_work import after_commit
from app.errors import Conflict
from app.http.dependencies import AfterParam, BlobsDep, ReadingDep, StoreDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.schemas import Deleted

router = APIRouter(prefix="/v1/models", tags=["models"], responses=ERROR_RESPONSES)


@router.get("")
def list_models(
    session: ReadingDep,
    store: StoreDep,
    after: AfterParam = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most adapters of a page.")] = 1000,
) -> ModelList:
    """Lists aliases and base models (on the first page), and adapters, newest first."""
    adapters, has_more = repository.list_page(session, after=after, limit=limit)
    data = [ModelObject.of_adapter(adapter) for adapter in adapters]
    if after is None:
        aliases = [ModelObject.of_alias(alias) for alias in repository.list_aliases(session)]
        data = aliases + [_base(store, name) for name in sorted(store.listed())] + data
    return ModelList(data=data, has_more=has_more)


@router.get("/{name:path}")
def get_model(session: ReadingDep, store: StoreDep, name: str) -> ModelObject:
    """Returns a base model, an adapter (`telecom:7`) or what an alias stands for (`telecom@production`)."""
    resolved = service.resolve(session, name, store)
    adapter = repository.find(session, resolved.adapter_id) if resolved.adapter_id else None
    return _base(store, name) if adapter is None else ModelObject.of_adapter(adapter)


@router.delete("/{name:path}")
def delete_model(
    request: Request, caller: CallerDep, session: TransactionDep, blobs: BlobsDep, store: StoreDep, name: str
) -> Deleted:
    """Deletes an adapter; 409 while an alias points to it or an evaluation needs it."""
    if name in store.listed():
        raise Conflict(f"{name!r} is a base model of the operator's list and cannot be deleted over HTTP.")
    key = service.delete(session, name, users_of=request.app.state.adapter_users)
    audit.record(session, caller, "adapter.deleted", name)
    after_commit(session, request.app.state.model_names.forget)
    if key is not None:
        after_commit(session, lambda: blobs.delete(key))
    return Deleted(id=name, object="model")


def _base(store: StoreDep, name: str) -> ModelObject:
    found = store.find(name)
    return ModelObject.of_base(name, found.checksum if found else None)
