"""What may be done with keys."""

import re
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.access import audit, repository
from app.access.callers import Caller
from app.access.errors import KeyNameTaken, TooManyKeys
from app.access.models import ApiKey
from app.access.scopes import Scope
from app.access.secret_text import PREFIX_CHARS, digest_of, new_secret
from app.db.locks import hold_name
from app.errors import InvalidInput, NotFound
from app.ids import new_id

MAX_KEYS_IN_FORCE = 1_000
_NAME = re.compile(r"[\w.@-]{1,64}")
_DAY_S = 86_400.0


@dataclass(frozen=True)
class KeyWish:
    """What a new key shall be."""

    name: str
    scope: Scope
    days: float | None = None
    """None: until it is revoked."""
    requests_per_minute: int | None = None
    max_concurrent: int | None = None


@dataclass(frozen=True)
class CreatedKey:
    """A new key and its secret, which is kept nowhere."""

    key: ApiKey
    secret: str


def create(session: Session, wish: KeyWish, caller: Caller) -> CreatedKey:
    """Makes a key.

    Raises:
        InvalidInput: the name is none.
        KeyNameTaken: a key in force has it; histories must tell the two apart.
        TooManyKeys: 1,000 keys are in force.
    """
    if not _NAME.fullmatch(wish.name):
        raise InvalidInput("A key's name has 1 to 64 letters, digits or . _ - @, such as crm-app or li.wei.", param="name")
    hold_name(session, "api_keys", "names")
    if repository.find_by_name(session, wish.name) is not None:
        raise KeyNameTaken(f"A key named {wish.name!r} is in force. Choose another name, or revoke that key first.", param="name")
    if repository.count_in_force(session) >= MAX_KEYS_IN_FORCE:
        raise TooManyKeys(f"{MAX_KEYS_IN_FORCE} keys are in force, the most there may be. Revoke some first.")
    secret, now = new_secret(), repository.now(session)
    key = ApiKey(
        id=new_id("key"),
        name=wish.name,
        prefix=secret[:PREFIX_CHARS],
        digest=digest_of(secret),
        scope=wish.scope.value,
        requests_per_minute=wish.requests_per_minute,
        max_concurrent=wish.max_concurrent,
        created_at=now,
        expires_at=None if wish.days is None else now + wish.days * _DAY_S,
        revoked_at=None,
    )
    session.add(key)
    session.flush()
    audit.record(session, caller, "key.created", key.id, details={"name": key.name, "scope": key.scope, "prefix": key.prefix})
    return CreatedKey(key, secret)


def revoke(session: Session, which: str, caller: Caller) -> ApiKey:
    """Ends a key, named by its id, its shown part, or its name while it is in force; once revoked it stays so.

    Raises:
        NotFound: no such key.
    """
    key = repository.find(session, which) or repository.find_by_name(session, which)
    if key is None:
        raise NotFound(f"There is no key {which[:100]!r}. List them with: dianda key list")
    if key.revoked_at is None:
        key.revoked_at = repository.now(session)
        audit.record(session, caller, "key.revoked", key.id, details={"name": key.name, "prefix": key.prefix})
    return key
