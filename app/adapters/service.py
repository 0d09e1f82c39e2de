"""What may be done with adapters and aliases, and what a model name means."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters import repository
from app.adapters.models import Adapter, Alias
from app.db.clock import db_now
from app.errors import Conflict, InvalidInput, NotFound
from app.ml.model_store import ModelStore

_ALIAS = re.compile(r"[A-Za-z0-9][\w.-]{0,63}@[A-Za-z0-9][\w.-]{0,31}", re.ASCII)
PREVIOUS = "previous"


@dataclass(frozen=True)
class ResolvedModel:
    """What a model name stands for right now."""

    requested: str
    base_model: str
    adapter_id: str | None
    adapter_checksum: str | None


def resolve(session: Session, name: str, store: ModelStore) -> ResolvedModel:
    """Resolves a base model's name, an adapter's (`telecom:7`) or an alias (`telecom@production`).

    Raises:
        NotFound: none of these; the message lists where to look.
    """
    adapter_id = name
    if "@" in name:
        alias = repository.find_alias(session, name)
        if alias is None:
            raise NotFound(f"There is no alias {name!r}. Set it with PUT /v1/aliases/{name}.", param="model")
        adapter_id = alias.adapter_id
    adapter = repository.find(session, adapter_id)
    if adapter is not None:
        return ResolvedModel(name, adapter.base_model, adapter.id, adapter.checksum)
    if name in store.listed():
        return ResolvedModel(name, name, None, None)
    raise NotFound(f"There is no model {name!r}. List the models with GET /v1/models.", param="model")


def create(
    session: Session,
    *,
    name: str,
    base_model: str,
    job_id: str,
    checksum: str,
    blob_key: str,
    spec: dict[str, Any],
    metrics: dict[str, Any],
) -> Adapter:
    """Stores a trained adapter as the next version of its name."""
    version = repository.next_version(session, name)
    return repository.add(
        session,
        Adapter(
            id=f"{name}:{version}",
            name=name,
            version=version,
            base_model=base_model,
            job_id=job_id,
            checksum=checksum,
            blob_key=blob_key,
            spec=spec,
            metrics=metrics,
        ),
    )


def delete(session: Session, adapter_id: str, *, users_of: Iterable[Callable[[Session, str], str | None]]) -> str | None:
    """Removes an adapter's row and returns its blob key, or None while an equal adapter still needs the blob.

    Raises:
        NotFound: no such adapter.
        Conflict: an alias points to it, or something that is not finished uses it.
    """
    adapter = repository.find(session, adapter_id)
    if adapter is None:
        raise NotFound(f"There is no adapter {adapter_id!r}. List the models with GET /v1/models.", param="model")
    if aliases := repository.aliases_of(session, adapter_id):
        raise Conflict(f"Adapter {adapter_id!r} is in use by alias {aliases[0]!r}. Point that elsewhere first.")
    for find_user in users_of:
        if (user := find_user(session, adapter_id)) is not None:
            raise Conflict(f"Adapter {adapter_id!r} is in use by {user}. Cancel that first, or wait for its end.")
    session.delete(adapter)
    session.flush()
    return None if repository.is_blob_in_use(session, adapter.blob_key) else adapter.blob_key


def point_alias(session: Session, name: str, *, to: str, reason: str | None) -> Alias:
    """Points an alias to an adapter, or back to where it pointed before (`previous`), and keeps the move.

    Raises:
        InvalidInput: the alias is not of the form `name@stage`.
        NotFound: no such adapter, or nothing to go back to.
    """
    if not _ALIAS.fullmatch(name):
        raise InvalidInput("An alias has the form name@stage, for example telecom@production.", param="name")
    alias = repository.find_alias(session, name, for_update=True)
    if to == PREVIOUS:
        history = repository.moves_of(session, name)
        target = history[0].from_adapter_id if history else None
        if target is None:
            raise NotFound(f"Alias {name!r} has pointed nowhere else before.", param="to")
    else:
        target = to
    if repository.find(session, target) is None:
        raise NotFound(f"There is no adapter {target!r}. List the models with GET /v1/models.", param="to")
    now = session.scalar(select(db_now())) or 0.0
    repository.add_move(session, name, from_id=alias.adapter_id if alias else None, to_id=target, reason=reason, now=now)
    if alias is None:
        alias = Alias(name=name, adapter_id=target, updated_at=now)
        session.add(alias)
    else:
        alias.adapter_id, alias.updated_at = target, now
    session.flush()
    return alias


def get_alias(session: Session, name: str) -> Alias:
    """Returns an alias.

    Raises:
        NotFound: no such alias.
    """
    alias = repository.find_alias(session, name)
    if alias is None:
        raise NotFound(f"There is no alias {name!r}. Set it with PUT /v1/aliases/{name}.", param="name")
    return alias
