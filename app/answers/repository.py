"""Queries over the answer log."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.answers.models import LoggedAnswer
from app.db.clock import db_now
from app.db.paging import page
from app.errors import NotFound

_DAY_S = 86_400.0


def add_all(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Stores rows that have every column, in one statement; a row that is there already stays as it is."""
    connection = session.connection()
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(LoggedAnswer).on_conflict_do_nothing(), rows)


def get(session: Session, answer_id: str) -> LoggedAnswer:
    """Returns a logged answer.

    Raises:
        NotFound: no such answer.
    """
    answer = session.get(LoggedAnswer, answer_id)
    if answer is None:
        raise NotFound(
            f"There is no answer {answer_id!r} in the log. It is written within a second or two, unless DIANDA_ANSWER_LOG is "
            "off, and kept for DIANDA_ANSWER_LOG_DAYS."
        )
    return answer


def list_page(session: Session, *, model: str | None, after: str | None, limit: int) -> tuple[list[LoggedAnswer], bool]:
    """Returns a page of answers, newest first, and whether more follow."""
    query = select(LoggedAnswer)
    if model is not None:
        query = query.where(LoggedAnswer.model == model)
    return page(session, query, LoggedAnswer, after=after, limit=limit)


def delete_older(session: Session, *, days: float, limit: int) -> int:
    """Deletes at most `limit` of the oldest answers that are older than `days`; returns how many."""
    oldest = (
        select(LoggedAnswer.id)
        .where(LoggedAnswer.created_at < db_now() - days * _DAY_S)
        .order_by(LoggedAnswer.created_at, LoggedAnswer.id)
        .limit(limit)
    )
    return session.connection().execute(delete(LoggedAnswer).where(LoggedAnswer.id.in_(oldest))).rowcount
