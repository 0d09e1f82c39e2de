"""What the code book says of a code, remembered for a second, so that an answer touches no database."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog
from anyio.to_thread import run_sync
from sqlalchemy import Engine

from app.codebook import repository
from app.codebook.entries import Entry
from app.db.outage import DATABASE_AWAY
from app.db.unit_of_work import read_only

_log = structlog.get_logger()
_KEPT_S = 1.0


@dataclass(frozen=True)
class _Kept:
    read_at: float
    version: int
    entries: Mapping[str, Entry]


class CodeTexts:
    """A cache over the code book; another api process's change is seen about a second later.

    The entries are read again only when the book's version has moved. One request does so; while it reads, the others go on
    with what was there, unless there is nothing yet; so they all do while the database is away.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: _Kept | None = None
        self._generation = 0
        self._reading = asyncio.Lock()

    async def entries(self) -> Mapping[str, Entry]:
        """Returns the book by code; every answer of one request uses this one result."""
        kept = self._kept
        if kept is not None and (time.monotonic() - kept.read_at < _KEPT_S or self._reading.locked()):
            return kept.entries
        async with self._reading:
            if self._kept is not None and self._kept is not kept:
                return self._kept.entries
            generation = self._generation
            try:
                fresh = await run_sync(self._read, self._kept)
            except DATABASE_AWAY as error:
                if self._kept is None:
                    raise
                _log.warning("code_texts_are_old", error=type(error).__name__)
                fresh = replace(self._kept, read_at=time.monotonic())
            if generation == self._generation:
                self._kept = fresh
            return fresh.entries

    def forget(self) -> None:
        """Drops everything: the book was replaced."""
        self._generation += 1
        self._kept = None

    def _read(self, kept: _Kept | None) -> _Kept:
        read_at = time.monotonic()
        with read_only(self._engine) as session:
            # The version first: a change that comes between the two reads is then seen the next time.
            version = repository.get_book(session).version
            if kept is not None and kept.version == version:
                return _Kept(read_at, version, kept.entries)
            return _Kept(read_at, version, {entry.code: entry for entry in repository.read_entries(session)})
