"""Renews a lease from a thread, whatever the recipe is busy with, and hears the user's wish."""

import threading
import time
from types import TracebackType

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db.unit_of_work import unit_of_work
from app.fault_points import reach
from app.jobs.leases import Lease, renew
from app.jobs.states import JobWish

_log = structlog.get_logger()
_LONGEST_PAUSE_S = 2.0


class Heartbeat:
    """A context manager around the work on one job.

    `lost` turns true when another claim has come, or when the database was away for a whole lease: then stop, and
    publish nothing.
    """

    def __init__(self, engine: Engine, lease: Lease, *, lease_s: float) -> None:
        self._engine = engine
        self._lease = lease
        self._lease_s = lease_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._renewed = time.monotonic()
        self._is_over = False
        self.wish = JobWish.NONE

    @property
    def lost(self) -> bool:
        """Whether the lease is another's by now; also true while a database that stopped answering holds a renewal up."""
        return self._is_over or time.monotonic() - self._renewed > self._lease_s

    def __enter__(self) -> "Heartbeat":
        """Begins to beat."""
        self._renewed = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stops beating; the lease is given back by the job's last move."""
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        pause_s = min(self._lease_s / 4, _LONGEST_PAUSE_S)
        while not self._ended.wait(pause_s):
            reach("before_renewal")
            asked = time.monotonic()
            try:
                with unit_of_work(self._engine) as session:
                    wish = renew(session, self._lease, lease_s=self._lease_s)
            except SQLAlchemyError as error:
                _log.warning("heartbeat_missed", job_id=self._lease.job_id, error=type(error).__name__)
                if self.lost:
                    # For good: a database that comes back now must not bring the work back to life.
                    self._is_over = True
                    return
                continue
            if wish is None:
                self._is_over = True
                return
            self._renewed, self.wish = asked, wish
