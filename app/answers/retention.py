"""How long answers stay in the log: a step of the api's upkeep, in small deletions, so that nobody waits long for a lock."""

import time

from sqlalchemy import Engine

from app.answers import repository
from app.db.unit_of_work import read_only, unit_of_work

_DELETED_AT_ONCE = 1000
_DELETIONS_A_ROUND = 50
_COUNTED_EVERY_S = 300.0


class AnswerRetention:
    """Deletes what is older than `days`, and the oldest beyond `max_rows`.

    Rows are counted every five minutes only, because a database counts by looking at each; until then there may be more.
    """

    def __init__(self, engine: Engine, *, days: float, max_rows: int) -> None:
        self._engine = engine
        self._days = days
        self._max_rows = max_rows
        self._counted_at: float | None = None
        self._up_to: float | None = None

    def enforce(self) -> int:
        """Runs one round of at most 50,000 deletions and returns how many there were."""
        self._count()
        total = 0
        for _ in range(_DELETIONS_A_ROUND):
            with unit_of_work(self._engine) as session:
                deleted = repository.delete_oldest(session, days=self._days, up_to=self._up_to, limit=_DELETED_AT_ONCE)
            total += deleted
            if deleted < _DELETED_AT_ONCE:
                break
        return total

    def _count(self) -> None:
        now = time.monotonic()
        if self._counted_at is None or now - self._counted_at >= _COUNTED_EVERY_S:
            with read_only(self._engine) as session:
                self._up_to = repository.find_newest_beyond(session, self._max_rows)
            self._counted_at = now
