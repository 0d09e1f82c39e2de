"""Queries over adapters and aliases."""

from collections.abc import Sequence

from sqlalchemy import func, select, union
from sqlalchemy.orm import Session

from app.adapters.models import MOVED, Adapter, AdapterCounter, Alias, AliasCandidate, AliasMove
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


def list_aliases(session: Session, *, after: str | None = None, limit: int | None = None) -> list[Alias]:
    """Returns aliases by name; all of them unless told otherwise."""
    query = select(Alias).order_by(Alias.name)
    if after is not None:
        query = query.where(Alias.name > after)
    return list(session.scalars(query.limit(limit)))


def find_candidate(session: Session, alias: str) -> AliasCandidate | None:
    """Returns what an alias tries out, or None."""
    return session.get(AliasCandidate, alias, populate_existing=True)


def candidates_of(session: Session, aliases: Sequence[str]) -> dict[str, AliasCandidate]:
    """Returns what each of these aliases tries out, if anything."""
    rows = session.scalars(select(AliasCandidate).where(AliasCandidate.alias.in_(aliases)))
    return {row.alias: row for row in rows}


def aliases_of(session: Session, adapter_id: str) -> list[str]:
    """Returns the aliases that point to an adapter or try it out."""
    pointing = select(Alias.name).where(Alias.adapter_id == adapter_id)
    trying = select(AliasCandidate.alias).where(AliasCandidate.adapter_id == adapter_id)
    return sorted(session.scalars(union(pointing, trying)))


def moves_of(session: Session, alias: str, *, before: int | None = None, limit: int) -> list[AliasMove]:
    """Returns an alias's history, newest first, from the move before number `before`."""
    query = select(AliasMove).where(AliasMove.alias == alias)
    if before is not None:
        query = query.where(AliasMove.number < before)
    return list(session.scalars(query.order_by(AliasMove.number.desc()).limit(limit)))


def find_last_move(session: Session, alias: str) -> AliasMove | None:
    """Returns the move that brought an alias where it points, or None; one that only pointed there again is none."""
    moves = select(AliasMove).where(
        AliasMove.alias == alias,
        AliasMove.action == MOVED,
        AliasMove.to_adapter_id.is_distinct_from(AliasMove.from_adapter_id),
    )
    return session.scalars(moves.order_by(AliasMove.number.desc()).limit(1)).first()


def add_move(session: Session, move: AliasMove) -> AliasMove:
    """Numbers and adds a change to an alias's history; the caller holds the alias's name."""
    last = session.scalar(select(func.max(AliasMove.number)).where(AliasMove.alias == move.alias)) or 0
    move.number = last + 1
    session.add(move)
    session.flush()
    return move
