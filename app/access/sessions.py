"""A browser's session: a cookie that names a key and an end, signed; the server keeps nothing, and the cookie is not the key.

The signature needs this deployment's secret, a file beside its data, and the key's digest, from the database: neither alone
makes a session, and a revoked key ends its sessions.
"""

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from app.access.errors import InvalidKey, MissingKey
from app.access.key_ring import KeyInForce, KeyRing

COOKIE = "dianda_session"
LASTS_S = 12 * 3600
_SECRET_BYTES = 32
_MAX_CHARS = 200


def session_secret(folder: Path) -> bytes:
    """Returns the deployment's secret for sessions; the first process that asks makes it."""
    path = folder / "session.secret"
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # Linked, not renamed: of several processes at once the first wins.
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return path.read_bytes()


class Sessions:
    """Signs and reads the cookies."""

    def __init__(self, secret: bytes, ring: KeyRing) -> None:
        self._secret = secret
        self._ring = ring

    def begin(self, key: KeyInForce) -> str:
        """Returns the cookie of a new session."""
        ends_at = int(time.time()) + LASTS_S
        return f"{key.prefix}.{ends_at}.{self._signature(key, ends_at)}"

    async def get(self, cookie: str) -> KeyInForce:
        """Returns the key of a session.

        Raises:
            MissingKey: the session is over or not ours, or its key was revoked.
            KeysUnknown: the database has not answered since this process started.
        """
        prefix, _, rest = cookie[:_MAX_CHARS].partition(".")
        ends_at, _, signature = rest.partition(".")
        is_whole = ends_at.isascii() and ends_at.isdecimal() and len(ends_at) <= 12 and signature.isascii()
        if is_whole and int(ends_at) > time.time():
            try:
                key = await self._ring.get_by_prefix(prefix)
            except InvalidKey:
                pass
            else:
                if hmac.compare_digest(signature, self._signature(key, int(ends_at))):
                    return key
        raise MissingKey("Your session is over. Log in again with your API key.")

    def _signature(self, key: KeyInForce, ends_at: int) -> str:
        message = f"console session|{key.prefix}|{ends_at}".encode()
        return hmac.new(self._secret + key.digest, message, hashlib.sha256).hexdigest()
