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
        self.wish = JobWish.NONE
        self.lost = False

    def __enter__(self) -> "Heartbeat":
        """Begins to beat."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stops beating; the lease is given back by the job's last move."""
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        pause_s = min(self._lease_s / 4, _LONGEST_PAUSE_S)
        renewed = time.monotonic()
        while not self._ended.wait(pause_s):
            reach("before_renewal")
            asked = time.monotonic()
            try:
                with unit_of_work(self._engine) as session:
                    wish = renew(session, self._lease, lease_s=self._lease_s)
            except SQLAlchemyError as error:
                _log.warning("heartbeat_missed", job_id=self._lease.job_id, error=type(error).__name__)
                if time.monotonic() - renewed > self._lease_s:
                    self.lost = True
                    return
                continue
            if wish is None:
                self.lost = True
                return
            renewed, self.wish = asked, wish
