"""Cursor pages over (created_at, id), newest first."""

from typing import Any, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from app.errors import InvalidInput

Row = TypeVar("Row")


def page(session: Session, query: "Select[Row]", table: Any, *, after: str | None, limit: int) -> tuple[list[Row], bool]:
    """Returns up to `limit` rows that come after the row with id `after`, and whether more follow.

    Raises:
        InvalidInput: `after` names no row.
    """
    query = query.order_by(table.created_at.desc(), table.id.desc())
    if after is not None:
        cursor = session.get(table, after)
        if cursor is None:
            raise InvalidInput(f"There is no {after!r} to go on after. Use the last id of the page before.", param="after")
        query = query.where(tuple_(table.created_at, table.id) < (cursor.created_at, cursor.id))
    rows = list(session.scalars(query.limit(limit + 1)))
    return rows[:limit], len(rows) > limit
