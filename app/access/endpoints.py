"""`/v1/keys` and `/v1/audit`."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from app.access import repository, service
from app.access.dependencies import CallerDep
from app.access.schemas import AuditEntryObject, AuditLog, CreatedKeyObject, CreateKey, KeyList, KeyObject
from app.http.dependencies import ReadingDep, TransactionDep
from app.http.errors import ERROR_RESPONSES

router = APIRouter(tags=["access"], responses=ERROR_RESPONSES)
_MOST_KEYS = 10_000


@router.post("/v1/keys", response_model=CreatedKeyObject)
def create_key(session: TransactionDep, caller: CallerDep, body: CreateKey) -> JSONResponse:
    """Makes a key; its `secret` is in this reply and nowhere else."""
    created = service.create(session, body.wish(), caller)
    shown = CreatedKeyObject.of_new(created.key, created.secret)
    return JSONResponse(shown.model_dump(mode="json"), headers={"cache-control": "no-store"})


@router.get("/v1/keys")
def list_keys(session: ReadingDep) -> KeyList:
    """Lists keys without their secrets, the newest first, revoked ones too."""
    return KeyList(data=[KeyObject.of(row) for row in repository.list_all(session, limit=_MOST_KEYS)])


@router.delete("/v1/keys/{key_id}")
def revoke_key(session: TransactionDep, caller: CallerDep, key_id: str) -> KeyObject:
    """Ends a key for good: within a second no API process takes it any more. Its row stays, for the histories that name it."""
    return KeyObject.of(service.revoke(session, key_id, caller))


@router.get("/v1/audit")
def list_admin_acts(
    session: ReadingDep,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Lowest number of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most acts of a page.")] = 100,
) -> AuditLog:
    """Lists what needed the scope admin: who, when, what, to what."""
    rows = repository.audit_page(session, before=before, limit=limit + 1)
    return AuditLog(data=[AuditEntryObject.of(row) for row in rows[:limit]], has_more=len(rows) > limit)
