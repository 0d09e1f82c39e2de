"""One request or one step is one transaction, committed at the edge; what must follow a commit waits for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlalchemy.orm import Session

_AFTER_COMMIT = "after_commit"
_log = structlog.get_logger()


@contextmanager
def unit_of_work(engine: Engine) -> Iterator[Session]:
    """Yields a session; commits when the block ends, rolls back when it raises, then runs what was put after the commit."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session
    for call in session.info.pop(_AFTER_COMMIT, []):
        try:
            call()
        except Exception:
            # The row is the truth: what rings after it may fail, and the upkeep loop rings again.
            _log.exception("after_commit_failed")


@contextmanager
def read_only(engine: Engine) -> Iterator[Session]:
    """Yields a session whose queries all see the database at one moment; it takes no write lock on SQLite.

    What two queries tell belongs together: else a reply could join an evaluation from before a commit with its job's
    status from after it. SQLite's WAL gives that by itself, PostgreSQL only when asked.
    """
    options: dict[str, Any] = {"read_only": True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with Session(engine.execution_options(**options), expire_on_commit=False) as session, session.begin():
        yield session


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Runs `call` once this session's transaction has committed; never, if it rolls back."""
    session.info.setdefault(_AFTER_COMMIT, []).append(call)
