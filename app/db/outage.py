"""What a database that does not answer looks like: refused, cut off, locked for too long, or no connection free."""

from sqlalchemy.exc import DBAPIError, OperationalError, TimeoutError

DATABASE_AWAY = (OperationalError, TimeoutError)


def may_have_committed(error: BaseException) -> bool:
    """Says whether a transaction that ended with an error may be in the database all the same: only its reply was lost."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
