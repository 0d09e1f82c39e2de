"""The error tree of the product; knows no HTTP.

    AppError
    ├── InvalidInput        the request or file is wrong (names the field or row)
    │   └── app.ml.errors.* the ML core's own
    ├── Unauthenticated     who asks is not known
    ├── Forbidden           who asks may not
    ├── NotFound
    ├── Conflict            the state forbids it
    ├── TooLarge
    ├── Unavailable         try again later
    └── Internal            our fault

`code` is stable for ever; `app.http.errors` alone turns a kind into a status.
"""

from enum import StrEnum
from typing import ClassVar


class Kind(StrEnum):
    """What sort of failure an error is; each edge translates it once."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class AppError(Exception):
    """A failure that a user may read: says what is wrong and what to do next."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    retry_after_s: float | None = None
    """When asking again makes sense, where that is known."""

    def __init__(self, message: str, *, param: str | None = None, details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details


class InvalidInput(AppError):
    """The request or a file in it cannot be used as it is."""

    kind = Kind.INVALID
    code = "invalid_request"


class Unauthenticated(AppError):
    """Who asks is not known."""

    kind = Kind.UNAUTHENTICATED
    code = "unauthenticated"


class Forbidden(AppError):
    """Who asks is known and may not."""

    kind = Kind.FORBIDDEN
    code = "forbidden"


class NotFound(AppError):
    """No such thing under that id or name."""

    kind = Kind.NOT_FOUND
    code = "not_found"


class Conflict(AppError):
    """The thing exists, but its state forbids what was asked."""

    kind = Kind.CONFLICT
    code = "conflict"


class TooLarge(AppError):
    """A size limit of the deployment was passed."""

    kind = Kind.TOO_LARGE
    code = "too_large"


class Unavailable(AppError):
    """A part that is needed does not answer now; the same request may succeed later."""

    kind = Kind.UNAVAILABLE
    code = "unavailable"
    retryable = True


class Internal(AppError):
    """A fault of ours."""
