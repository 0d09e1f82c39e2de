"""The keys in force, in memory: no request asks the database. Read anew twice a second, so that a revocation is soon seen."""

import asyncio
import time
from dataclasses import dataclass

import structlog
from anyio.to_thread import run_sync
from sqlalchemy import Engine

from app.access import repository
from app.access.callers import Caller
from app.access.errors import InvalidKey, KeysUnknown
from app.access.key_limits import KeyLimits
from app.access.models import ApiKey
from app.access.scopes import Scope
from app.access.secret_text import is_secret_of, prefix_of
from app.access.service import MAX_KEYS_IN_FORCE
from app.db.unit_of_work import read_only

_READ_EVERY_S = 0.5
# A key made a moment ago must work; whoever sends keys that do not exist costs five queries a second and no more, and waits.
_READ_AGAIN_AFTER_S, _LOOK_EVERY_S = 0.2, 0.01
_INVALID = "This API key is unknown, revoked or over its time. An operator makes one with: dianda key create NAME --scope SCOPE"
_log = structlog.get_logger()


@dataclass(frozen=True)
class KeyInForce:
    """What a request is checked against."""

    caller: Caller
    prefix: str
    digest: bytes
    expires_at: float | None
    limits: KeyLimits

    @property
    def is_over(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and time.time() >= self.expires_at


class KeyRing:
    """One process's copy. While the database is away the last one holds: answers need no database."""

    def __init__(self, engine: Engine, *, requests_per_minute: int | None = None, max_concurrent: int | None = None) -> None:
        self._engine = engine
        self._requests_per_minute = requests_per_minute
        self._max_concurrent = max_concurrent
        self._by_prefix: dict[str, KeyInForce] | None = None
        self._read_at = float("-inf")
        self._is_reading = False

    def reload(self) -> None:
        """Reads the keys; blocks. A key that stays keeps its counts."""
        with read_only(self._engine) as session:
            rows = repository.list_in_force(session, limit=MAX_KEYS_IN_FORCE)
        known = self._by_prefix or {}
        self._by_prefix = {row.prefix: known.get(row.prefix) or self._in_force(row) for row in rows}

    async def watch(self) -> None:
        """Reads the keys again and again until it is cancelled."""
        is_away = False
        while True:
            try:
                await self._read_after(time.monotonic())
                is_away = False
            except Exception as error:
                if not is_away:
                    _log.warning("keys_not_read", error=type(error).__name__)
                is_away = True
            await asyncio.sleep(_READ_EVERY_S)

    async def get(self, secret: str) -> KeyInForce:
        """Returns the key whose secret this is.

        Raises:
            InvalidKey: none in force.
            KeysUnknown: the database has not answered since this process started.
        """
        prefix = prefix_of(secret)
        if prefix is None:
            raise InvalidKey(_INVALID)
        key = await self.get_by_prefix(prefix)
        if not is_secret_of(secret, key.digest):
            raise InvalidKey(_INVALID)
        return key

    async def get_by_prefix(self, prefix: str) -> KeyInForce:
        """Returns the key with this shown part, which proves nothing yet.

        Raises:
            InvalidKey: none in force.
            KeysUnknown: the database has not answered since this process started.
        """
        key = None if self._by_prefix is None else self._by_prefix.get(prefix)
        if key is None:
            try:
                await self._read_after(time.monotonic())
            except Exception as error:
                _log.warning("keys_not_read", error=type(error).__name__)
            if self._by_prefix is None:
                raise KeysUnknown("The API keys cannot be read: the database does not answer. Try again in a moment.")
            key = self._by_prefix.get(prefix)
        if key is None or key.is_over:
            raise InvalidKey(_INVALID)
        return key

    def holds(self, key: KeyInForce) -> bool:
        """Says whether a key that was let in is in force still; asks no database."""
        return self._by_prefix is not None and self._by_prefix.get(key.prefix) is key and not key.is_over

    async def _read_after(self, moment: float) -> None:
        """Returns once the keys were read after a moment, by whoever comes first."""
        while self._is_reading or self._read_at < moment:
            now = time.monotonic()
            if self._is_reading or now - self._read_at < _READ_AGAIN_AFTER_S:
                await asyncio.sleep(_LOOK_EVERY_S)
                continue
            self._is_reading, self._read_at = True, now
            try:
                await run_sync(self.reload)
            finally:
                self._is_reading = False

    def _in_force(self, row: ApiKey) -> KeyInForce:
        return KeyInForce(
            Caller(row.name, Scope(row.scope), row.id),
            row.prefix,
            row.digest,
            row.expires_at,
            KeyLimits(
                requests_per_minute=row.requests_per_minute or self._requests_per_minute,
                max_concurrent=row.max_concurrent or self._max_concurrent,
            ),
        )
