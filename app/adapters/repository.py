"""Queries over adapters and aliases."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.adapters.models import Adapter, AdapterCounter, Alias, AliasMove
from app.db.clock import db_now
from app.db.locks import hold_name
from app.db.paging import page


def find(session: Session, adapter_id: str) -> Adapter | None:
    """Returns an adapter, or None."""
    return session.get(Adapter, adapter_id)


def next_version(session: Session, name: str) -> int:
    """Counts up the versions of a name, one finishing job after the other."""
    hold_name(session, "adapter", name)
    counter = session.get(AdapterCounter, name, populate_existing=True)
    if counter is None:
        counter = AdapterCounter(name=name, last_version=0)
        session.add(counter)
    counter.last_version += 1
    session.flush()
    return counter.last_version


def add(session: Session, adapter: Adapter) -> Adapter:
    """Stores a new row, stamped by the database's clock."""
    adapter.created_at = session.scalar(select(db_now())) or 0.0
    session.add(adapter)
    session.flush()
    return adapter


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[list[Adapter], bool]:
    """Returns a page of adapters, newest first, and whether more follow."""
    return page(session, select(Adapter), Adapter, after=after, limit=limit)


def is_blob_in_use(session: Session, blob_key: str) -> bool:
    """Says whether any adapter's files lie under a key."""
    return session.scalar(select(Adapter.id).where(Adapter.blob_key == blob_key).limit(1)) is not None


def find_alias(session: Session, name: str, *, for_update: bool = False) -> Alias | None:
    """Returns an alias, or None; `for_update` holds its name until the commit, even where it points nowhere yet."""
    if for_update:
        hold_name(session, "alias", name)
    return session.get(Alias, name, populate_existing=for_update)


def list_aliases(session: Session) -> list[Alias]:
    """Returns every alias by name."""
    return list(session.scalars(select(Alias).order_by(Alias.name)))


def aliases_of(session: Session, adapter_id: str) -> list[str]:
    """Returns the aliases that point to an adapter."""
    return list(session.scalars(select(Alias.name).where(Alias.adapter_id == adapter_id).order_by(Alias.name)))


def moves_of(session: Session, alias: str) -> list[AliasMove]:
    """Returns an alias's history, newest first."""
    return list(session.scalars(select(AliasMove).where(AliasMove.alias == alias).order_by(AliasMove.number.desc())))


def add_move(session: Session, alias: str, *, from_id: str | None, to_id: str, reason: str | None, now: float) -> None:
    """Adds to an alias's history; the caller holds the alias's row."""
    last = session.scalar(select(func.max(AliasMove.number)).where(AliasMove.alias == alias)) or 0
    session.add(
        AliasMove(alias=alias, number=last + 1, from_adapter_id=from_id, to_adapter_id=to_id, reason=reason, created_at=now)
    )
    session.flush()
