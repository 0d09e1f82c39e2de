"""What a database that does not answer looks like: refused, cut off, locked for too long, or no connection free."""

from sqlalchemy.exc import OperationalError, TimeoutError

DATABASE_AWAY = (OperationalError, TimeoutError)
