"""Locks on names that have no row yet."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session


def hold_name(session: Session, kind: str, name: str) -> None:
    """Makes the transactions that hold the same name run one after the other, each until its commit.

    SQLite's writers do so anyway.
    """
    # Begins the transaction where nothing has yet: on SQLite that takes the write lock.
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{kind}:{name}", 0))))
