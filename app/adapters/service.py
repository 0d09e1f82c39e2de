"""What may be done with adapters, and what a model name means."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from app.adapters import repository
from app.adapters.models import Adapter
from app.errors import Conflict, NotFound
from app.ml.model_store import ModelStore

CandidateMode = Literal["share", "shadow"]


@dataclass(frozen=True)
class ResolvedCandidate:
    """The adapter that an alias tries out, and on how many of 100 askers (`share`) or questions (`shadow`)."""

    adapter_id: str
    adapter_checksum: str
    mode: CandidateMode
    percent: float


@dataclass(frozen=True)
class ResolvedModel:
    """What a model name stands for right now."""

    requested: str
    base_model: str
    adapter_id: str | None
    adapter_checksum: str | None
    candidate: ResolvedCandidate | None = None
    """Of the same base model."""


def resolve(session: Session, name: str, store: ModelStore) -> ResolvedModel:
    """Resolves a base model's name, an adapter's (`telecom:7`) or an alias (`telecom@production`).

    Raises:
        NotFound: none of these; the message lists where to look.
    """
    adapter_id, candidate = name, None
    if "@" in name:
        alias = repository.find_alias(session, name)
        if alias is None:
            raise NotFound(f"There is no alias {name!r}. Set it with PUT /v1/aliases/{name}.", param="model")
        adapter_id, candidate = alias.adapter_id, _resolve_candidate(session, name)
    adapter = repository.find(session, adapter_id)
    if adapter is not None:
        return ResolvedModel(name, adapter.base_model, adapter.id, adapter.checksum, candidate)
    if name in store.listed():
        return ResolvedModel(name, name, None, None)
    raise NotFound(f"There is no model {name!r}. List the models with GET /v1/models.", param="model")


def _resolve_candidate(session: Session, alias: str) -> ResolvedCandidate | None:
    row = repository.find_candidate(session, alias)
    adapter = None if row is None else repository.find(session, row.adapter_id)
    if row is None or adapter is None:
        return None
    return ResolvedCandidate(adapter.id, adapter.checksum, "shadow" if row.mode == "shadow" else "share", row.percent)


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
        raise Conflict(
            f"Adapter {adapter_id!r} is in use by alias {aliases[0]!r}. Point that elsewhere, or end its trial, first."
        )
    for find_user in users_of:
        if (user := find_user(session, adapter_id)) is not None:
            raise Conflict(f"Adapter {adapter_id!r} is in use by {user}. Cancel that first, or wait for its end.")
    session.delete(adapter)
    session.flush()
    return None if repository.is_blob_in_use(session, adapter.blob_key) else adapter.blob_key
