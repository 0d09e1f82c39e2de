"""The engine: SQLite made safe for several processes, or PostgreSQL."""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url

_BUSY_TIMEOUT_MS = 15_000
# A peer that is gone without a word (its host lost power, a firewall forgot the connection) is noticed within half a minute;
# the kernel's own defaults take two hours.
_NOTICE_A_DEAD_PEER = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def make_engine(url: str) -> Engine:
    """Returns an engine for a `sqlite:///` or `postgresql+psycopg://` URL; connects only when used."""
    parsed = make_url(url)
    # hide_parameters: an error's text goes into the log, and parameters are questions and digests of keys.
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"check_same_thread": False}, hide_parameters=True)
        # Rows of one insert in one statement: sqlite3 lets go of the interpreter's lock at each step of a statement, and beside a
        # busy event loop a thread waits 5 ms to get it back.
        engine.dialect.use_insertmanyvalues_wo_returning = True
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    return create_engine(
        parsed,
        pool_size=10,
        max_overflow=20,
        pool_pre_ping=True,
        pool_timeout=10,
        hide_parameters=True,
        # What the URL itself says of these comes first.
        connect_args={name: value for name, value in _NOTICE_A_DEAD_PEER.items() if name not in parsed.query},
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # pysqlite would begin lazily, and a read that turns into a write gets SQLITE_BUSY at once whatever the timeout:
    # autocommit mode here, an explicit BEGIN IMMEDIATE below.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        # WAL with NORMAL may lose commits at power loss (sqlite.org/pragma.html#pragma_synchronous).
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
