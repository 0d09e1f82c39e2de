"""The upkeep of the queue: ends dead leases and rings lost bells again. Every step may run twice."""

from sqlalchemy import Engine

from app.db.unit_of_work import read_only, unit_of_work
from app.jobs import leases
from app.jobs.queue import Doorbell


def sweep(engine: Engine, bell: Doorbell) -> int:
    """Runs one round and returns how many leases it ended."""
    with read_only(engine) as session:
        dead = leases.expired(session)
    ended = 0
    for lease in dead:
        with unit_of_work(engine) as session:
            ended += leases.interrupt(session, lease, reason="its worker gave no sign of life.", expired_only=True)
    with read_only(engine) as session:
        due = leases.due_count(session)
    # One bell is enough while one waits unheard: a busy worker must not find thousands.
    if due and bell.waiting() == 0:
        bell.ring("sweep")
    return ended
