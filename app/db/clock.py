"""The database's clock, the only one that leases trust: hosts may disagree, one database does not."""

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class db_now(FunctionElement[float]):  # noqa: N801  # reads as the SQL function it is
    """Seconds since 1970 by the database's clock, to the millisecond at least."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:
    # clock_timestamp, not now(): now() stands still within a transaction.
    return "EXTRACT(EPOCH FROM clock_timestamp())::double precision"
