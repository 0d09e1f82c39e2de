"""Queries over the code book."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, or_, select
from sqlalchemy.orm import Session

from app.codebook.entries import Entry
from app.codebook.models import Codebook, CodebookEntry
from app.db.clock import db_now
from app.db.locks import hold_name

_THE_BOOK = 1
_CHUNK = 5_000


@dataclass(frozen=True)
class Tally:
    """How many entries the book has."""

    entries: int
    with_text: int


def get_book(session: Session, *, for_update: bool = False) -> Codebook:
    """Returns the book's row, version 0 before it is first written; `for_update` keeps other replacements waiting."""
    if for_update:
        hold_name(session, "codebook", "the book")
    book = session.get(Codebook, _THE_BOOK, populate_existing=for_update)
    if book is None:
        book = Codebook(id=_THE_BOOK, version=0, updated_at=None)
        if for_update:
            session.add(book)
    return book


def read_entries(session: Session) -> list[Entry]:
    """Returns every entry by code, in the order of code points on every database."""
    query = select(CodebookEntry.code, CodebookEntry.category, CodebookEntry.text)
    return sorted((Entry(*row) for row in session.execute(query)), key=lambda entry: entry.code)


def codes(session: Session) -> list[str]:
    """Returns every code, in the order of code points."""
    return sorted(session.scalars(select(CodebookEntry.code)))


def tally(session: Session) -> Tally:
    """Returns how many entries there are, and how many of them have a text."""
    query = select(func.count(), func.count(CodebookEntry.text)).select_from(CodebookEntry)
    return Tally(*session.execute(query).one())


def entries_page(session: Session, *, wanted: str, after: str | None, limit: int) -> tuple[list[Entry], bool]:
    """Returns a page of the entries in which a text occurs, by code in the database's own order, and whether more follow."""
    query = select(CodebookEntry.code, CodebookEntry.category, CodebookEntry.text).order_by(CodebookEntry.code)
    if wanted:
        columns = (CodebookEntry.code, CodebookEntry.category, CodebookEntry.text)
        query = query.where(or_(*(column.icontains(wanted, autoescape=True) for column in columns)))
    if after is not None:
        query = query.where(CodebookEntry.code > after)
    rows = [Entry(*row) for row in session.execute(query.limit(limit + 1))]
    return rows[:limit], len(rows) > limit


def remove(session: Session, gone: Sequence[str]) -> None:
    """Deletes entries by code."""
    for start in range(0, len(gone), _CHUNK):
        session.connection().execute(delete(CodebookEntry).where(CodebookEntry.code.in_(gone[start : start + _CHUNK])))


def add(session: Session, entries: Iterable[Entry], *, now: float) -> None:
    """Inserts entries whose codes are not there."""
    rows = [{"code": one.code, "category": one.category, "text": one.text, "updated_at": now} for one in entries]
    if rows:
        # On the connection: the session's own bulk insert takes twice as long for 200,000 rows.
        session.connection().execute(insert(CodebookEntry), rows)


def now(session: Session) -> float:
    """Returns the database's time, seconds since 1970."""
    return session.scalar(select(db_now())) or 0.0
