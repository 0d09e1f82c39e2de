"""Queries over the answer log."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Insert, delete, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from app.answers.models import LoggedAnswer
from app.db.clock import db_now
from app.db.paging import page
from app.errors import NotFound

_DAY_S = 86_400.0


@dataclass(frozen=True)
class AnswerFilter:
    """Which answers of the log are wanted; None: all."""

    model: str | None = None
    """The name that was asked for."""
    adapter: str | None = None
    fallback: bool | None = None
    max_confidence: float | None = None
    since: float | None = None
    """Seconds since 1970, inclusive."""
    until: float | None = None
    """Seconds since 1970, exclusive."""


def add_all(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Stores rows that have every column, in few statements; a row that is there already stays as it is."""
    connection = session.connection()
    statement: Insert
    if connection.dialect.name == "postgresql":
        statement = postgresql.insert(LoggedAnswer).on_conflict_do_nothing()
    else:
        # Not ON CONFLICT: with that clause SQLAlchemy makes a statement a row (see app/db/engine.py).
        statement = insert(LoggedAnswer).prefix_with("OR IGNORE")
    for start, stop in _powers_of_two(len(rows)):
        connection.execute(statement, rows[start:stop])


def get(session: Session, answer_id: str, *, for_update: bool = False) -> LoggedAnswer:
    """Returns a logged answer, its row locked until the commit if `for_update`.

    Raises:
        NotFound: no such answer.
    """
    answer = session.get(LoggedAnswer, answer_id, with_for_update=for_update)
    if answer is None:
        raise NotFound(
            f"There is no answer {answer_id!r} in the log. An answer is there about a second after it was given, unless "
            "DIANDA_ANSWER_LOG is off, and stays for DIANDA_ANSWER_LOG_DAYS."
        )
    return answer


def list_page(session: Session, wanted: AnswerFilter, *, after: str | None, limit: int) -> tuple[list[LoggedAnswer], bool]:
    """Returns a page of answers, newest first, and whether more follow."""
    query = select(LoggedAnswer)
    if wanted.model is not None:
        query = query.where(LoggedAnswer.model == wanted.model)
    if wanted.adapter is not None:
        query = query.where(LoggedAnswer.adapter_id == wanted.adapter)
    if wanted.fallback is not None:
        reason = LoggedAnswer.fallback_reason
        query = query.where(reason.is_not(None) if wanted.fallback else reason.is_(None))
    if wanted.max_confidence is not None:
        query = query.where(LoggedAnswer.confidence <= wanted.max_confidence)
    if wanted.since is not None:
        query = query.where(LoggedAnswer.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(LoggedAnswer.created_at < wanted.until)
    return page(session, query, LoggedAnswer, after=after, limit=limit)


def find_newest_beyond(session: Session, rows: int) -> float | None:
    """Returns when the newest answer was given that the `rows` newest ones leave out, or None if there are no more."""
    newest_first = select(LoggedAnswer.created_at).order_by(LoggedAnswer.created_at.desc(), LoggedAnswer.id.desc())
    return session.scalar(newest_first.offset(rows).limit(1))


def delete_oldest(session: Session, *, days: float, up_to: float | None, limit: int) -> int:
    """Deletes at most `limit` of the oldest answers that are older than `days` or were given at `up_to` or before."""
    is_old = LoggedAnswer.created_at < db_now() - days * _DAY_S
    if up_to is not None:
        is_old |= LoggedAnswer.created_at <= up_to
    oldest = select(LoggedAnswer.id).where(is_old).order_by(LoggedAnswer.created_at, LoggedAnswer.id).limit(limit)
    return session.connection().execute(delete(LoggedAnswer).where(LoggedAnswer.id.in_(oldest))).rowcount


def _powers_of_two(count: int) -> Iterator[tuple[int, int]]:
    # Each number of rows is a statement of its own text, which the driver keeps prepared: 235 KiB for 200 rows in SQLite.
    start = 0
    while start < count:
        size = 1 << ((count - start).bit_length() - 1)
        yield start, start + size
        start += size
