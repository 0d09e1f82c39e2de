"""The objects of keys and of the audit log."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.access.models import ApiKey, AuditEntry
from app.access.scopes import Scope
from app.access.service import KeyWish
from app.http.schemas import RequestBody, Text


class CreateKey(RequestBody):
    """A key to make."""

    name: Annotated[Text, Field(min_length=1, max_length=64, description="Who or what will hold it; histories show it.")]
    scope: Annotated[
        Literal["answer", "train", "admin"], Field(description="Each includes those before it: `answer`, `train`, `admin`.")
    ]
    days: Annotated[float | None, Field(gt=0, le=36500, description="Until it ends by itself; none: until it is revoked.")] = None
    requests_per_minute: Annotated[
        int | None, Field(ge=1, le=10_000_000, description="Of one API process; none: the deployment's.")
    ] = None
    max_concurrent: Annotated[
        int | None, Field(ge=1, le=100_000, description="Requests at once of one API process; none: the deployment's.")
    ] = None

    model_config = RequestBody.model_config | {"json_schema_extra": {"examples": [{"name": "crm-app", "scope": "answer"}]}}

    def wish(self) -> KeyWish:
        """Returns it as the service knows it."""
        return KeyWish(
            self.name,
            Scope(self.scope),
            days=self.days,
            requests_per_minute=self.requests_per_minute,
            max_concurrent=self.max_concurrent,
        )


class KeyObject(BaseModel):
    """A key, without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    prefix: str
    """The part of the secret that is shown."""
    scope: Scope
    requests_per_minute: int | None
    max_concurrent: int | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None

    @classmethod
    def of(cls, row: ApiKey) -> "KeyObject":
        """Builds the object of a row."""
        return cls(**_facts(row))


class CreatedKeyObject(KeyObject):
    """A new key."""

    secret: str
    """Shown this once and kept nowhere."""

    @classmethod
    def of_new(cls, row: ApiKey, secret: str) -> "CreatedKeyObject":
        """Builds the object of a new row."""
        return cls(**_facts(row), secret=secret)


class KeyList(BaseModel):
    """All keys, the newest first; there are at most 1,000 in force."""

    object: Literal["list"] = "list"
    data: list[KeyObject]


class AuditEntryObject(BaseModel):
    """One admin act."""

    number: int
    object: Literal["audit.entry"] = "audit.entry"
    created_at: int
    actor: str
    key_id: str | None
    act: str
    target: str
    details: dict[str, Any] | None
    request_id: str | None

    @classmethod
    def of(cls, row: AuditEntry) -> "AuditEntryObject":
        """Builds the object of a row."""
        return cls(
            number=row.number,
            created_at=int(row.created_at),
            actor=row.actor,
            key_id=row.key_id,
            act=row.act,
            target=row.target,
            details=row.details,
            request_id=row.request_id,
        )


class AuditLog(BaseModel):
    """A page of admin acts, the newest first; the next is `?before=` its last number."""

    object: Literal["list"] = "list"
    data: list[AuditEntryObject]
    has_more: bool


def _facts(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "prefix": row.prefix,
        "scope": Scope(row.scope),
        "requests_per_minute": row.requests_per_minute,
        "max_concurrent": row.max_concurrent,
        "created_at": int(row.created_at),
        "expires_at": None if row.expires_at is None else int(row.expires_at),
        "revoked_at": None if row.revoked_at is None else int(row.revoked_at),
    }
