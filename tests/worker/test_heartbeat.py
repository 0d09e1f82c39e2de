"""When a worker knows that its lease is another's."""

import time

from sqlalchemy import Engine, text

from app.jobs.states import JobStatus
from tests.fixtures.queue import insert_job, let_lease_die, must_claim, read_job
from worker.heartbeat import Heartbeat


def wait_until_lost(heartbeat: Heartbeat, *, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not heartbeat.lost:
        time.sleep(0.02)
    return heartbeat.lost


def test_a_lease_that_is_renewed_is_not_lost(engine: Engine) -> None:
    insert_job(engine)
    with Heartbeat(engine, must_claim(engine, lease_s=1), lease_s=1) as heartbeat:
        assert not wait_until_lost(heartbeat, timeout_s=1.5)


def test_a_lease_whose_job_was_taken_away_is_lost(engine: Engine) -> None:
    job_id = insert_job(engine)
    lease = must_claim(engine)
    let_lease_die(engine, job_id)
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET fence = fence + 1 WHERE id = :id"), {"id": job_id})
    with Heartbeat(engine, lease, lease_s=0.4) as heartbeat:
        assert wait_until_lost(heartbeat, timeout_s=5)


def test_a_lease_is_lost_at_its_end_though_a_database_that_does_not_answer_holds_the_renewal_up(engine: Engine) -> None:
    job_id = insert_job(engine)
    lease = must_claim(engine)
    heartbeat = Heartbeat(engine, lease, lease_s=0.4)
    with engine.begin() as connection:
        # The row, on SQLite the whole file, is another's.
        connection.execute(text("UPDATE jobs SET seed = seed WHERE id = :id"), {"id": job_id})
        heartbeat.__enter__()
        began = time.monotonic()
        assert wait_until_lost(heartbeat, timeout_s=5)
        assert time.monotonic() - began < 3
    heartbeat.__exit__(None, None, None)
    assert read_job(engine, job_id).status == JobStatus.RUNNING.value
