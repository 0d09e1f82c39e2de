"""What a model name stands for, remembered for a second, so that an answer touches no database."""

import asyncio
import time
from functools import partial

import structlog
from anyio.to_thread import run_sync
from sqlalchemy import Engine

from app.adapters.service import ResolvedModel, resolve
from app.db.outage import DATABASE_AWAY
from app.db.unit_of_work import read_only
from app.errors import NotFound
from app.ml.model_store import ModelStore

_log = structlog.get_logger()
_KEPT_S = 1.0


class ModelNames:
    """A cache over `app.adapters.service.resolve`; another api process's promotion is seen about a second later.

    One caller reads a name again; meanwhile the others go on with what it stood for. While the database is away, a name
    stands for what it stood for last.
    """

    def __init__(self, engine: Engine, store: ModelStore) -> None:
        self._engine = engine
        self._store = store
        self._kept: dict[str, tuple[float, ResolvedModel]] = {}
        self._reading: dict[str, asyncio.Task[ResolvedModel]] = {}
        self._generation = 0

    async def resolve(self, name: str) -> ResolvedModel:
        """Returns what a name stands for; every question of one request uses this one result.

        Raises:
            NotFound: no such model.
        """
        kept = self._kept.get(name)
        if kept is not None and (time.monotonic() - kept[0] < _KEPT_S or name in self._reading):
            return kept[1]
        if name in self._reading:
            # A caller that goes away must not take the others' reading with it.
            return await asyncio.shield(self._reading[name])
        generation = self._generation
        reading = self._reading[name] = asyncio.ensure_future(self._read_again(name, kept, generation))
        reading.add_done_callback(partial(self._end_reading, name))
        return await asyncio.shield(reading)

    async def _read_again(self, name: str, kept: tuple[float, ResolvedModel] | None, generation: int) -> ResolvedModel:
        try:
            resolved = await run_sync(self._read, name)
        except DATABASE_AWAY as error:
            if kept is None:
                raise
            # Answers go on with what was true last, rather than end with the database.
            _log.warning("model_names_are_old", error=type(error).__name__)
            resolved = kept[1]
        if generation == self._generation:
            self._kept[name] = (time.monotonic(), resolved)
        return resolved

    async def find_checksum(self, adapter_id: str) -> str | None:
        """Returns an adapter's checksum, or None where there is no such adapter."""
        try:
            return (await self.resolve(adapter_id)).adapter_checksum
        except NotFound:
            return None

    def forget(self) -> None:
        """Drops everything: a name has moved."""
        self._generation += 1
        self._kept, self._reading = {}, {}

    def _end_reading(self, name: str, reading: asyncio.Task[ResolvedModel]) -> None:
        if self._reading.get(name) is reading:
            del self._reading[name]
        if not reading.cancelled():
            # Whoever waited has it; if all went away, nobody needs to be told.
            reading.exception()

    def _read(self, name: str) -> ResolvedModel:
        with read_only(self._engine) as session:
            return resolve(session, name, self._store)
