"""A client's `Idempotency-Key`: the same key and body make one thing, however often and however much at once they come."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.base import Base
from app.db.locks import hold_name
from app.errors import InvalidInput
from app.jobs.models import IdempotencyKey

Made = TypeVar("Made", bound=Base)
"""A table with `id` and `created_at`: jobs, and what is made of jobs."""


class IdempotencyMismatch(InvalidInput):
    """A client's key came before, with another body."""

    code = "idempotency_key_reused"


@dataclass(frozen=True)
class CreationKey:
    """A client's key, and the digest of what it came with."""

    key: str
    body_sha256: str

    @classmethod
    def find(cls, key: str | None, body: BaseModel) -> "CreationKey | None":
        """Returns the key of a request, or None where it has none; the same fields are the same body, however written."""
        return None if key is None else cls(key, hashlib.sha256(body.model_dump_json().encode()).hexdigest())


def create_once(session: Session, table: type[Made], key: CreationKey | None, create: Callable[[], Made]) -> Made:
    """Returns what the key made before; else makes it, and holds the key until the commit, so that equal requests wait.

    Raises:
        IdempotencyMismatch: the key came before with another body.
        AppError: as `create`; then the key is not used up.
    """
    if key is None:
        return create()
    hold_name(session, "idempotency_key", f"{table.__tablename__}:{key.key}")
    if (known := find_made(session, table, key)) is not None:
        return known
    made = create()
    row: Any = made
    session.add(
        IdempotencyKey(
            kind=table.__tablename__, key=key.key, body_sha256=key.body_sha256, made_id=row.id, created_at=row.created_at
        )
    )
    session.flush()
    return made


def find_made(session: Session, table: type[Made], key: CreationKey | None) -> Made | None:
    """Returns what a key made before, as the database holds it now, or None.

    Raises:
        IdempotencyMismatch: the key came before with another body.
    """
    if key is None:
        return None
    query = select(IdempotencyKey.body_sha256, IdempotencyKey.made_id)
    known = session.execute(query.where(IdempotencyKey.kind == table.__tablename__, IdempotencyKey.key == key.key)).first()
    if known is None:
        return None
    if known.body_sha256 != key.body_sha256:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used with another body. Use a new key for a new request.", param="Idempotency-Key"
        )
    return session.get(table, known.made_id, populate_existing=True)


def forget(session: Session, made: Any) -> None:
    """Frees the key that made something, if any: what is deleted can be made again."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.kind == made.__tablename__, IdempotencyKey.made_id == made.id))
