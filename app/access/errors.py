"""Why a request is turned away before its body is read."""

from app.errors import Conflict, Forbidden, Unauthenticated, Unavailable


class MissingKey(Unauthenticated):
    """No key came with the request."""

    code = "missing_api_key"


class InvalidKey(Unauthenticated):
    """The key is unknown, revoked or over its time."""

    code = "invalid_api_key"


class ScopeTooNarrow(Forbidden):
    """The key's scope does not include the route's."""

    code = "insufficient_scope"


class ForeignPage(Forbidden):
    """A browser sends this for a page of another site."""

    code = "cross_site_request"


class KeysUnknown(Unavailable):
    """No key has been read from the database since this process started."""

    code = "keys_unavailable"


class KeyRateExceeded(Unavailable):
    """The key's requests come faster than it may make them."""

    code = "key_rate_exceeded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class KeyTooBusy(Unavailable):
    """As many requests of this key are under way as it may have at once."""

    code = "key_too_busy"


class KeyNameTaken(Conflict):
    """A key in force has this name."""

    code = "key_name_taken"


class TooManyKeys(Conflict):
    """As many keys are in force as one deployment may have."""

    code = "too_many_keys"
