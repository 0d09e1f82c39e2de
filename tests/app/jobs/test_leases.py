import threading
import time

import pytest
from sqlalchemy import Engine

from app.db.unit_of_work import read_only, unit_of_work
from app.jobs import leases, service
from app.jobs.leases import Lease
from app.jobs.states import JobStatus, JobWish
from tests.fixtures.queue import (
    claim,
    clock,
    insert_job,
    let_lease_die,
    must_claim,
    read_events,
    read_job,
)


def renew(engine: Engine, lease: Lease) -> JobWish | None:
    with unit_of_work(engine) as session:
        return leases.renew(session, lease, lease_s=60)


def interrupt(engine: Engine, lease: Lease, *, expired_only: bool = False) -> bool:
    with unit_of_work(engine) as session:
        return leases.interrupt(session, lease, reason="it was lost.", expired_only=expired_only)


def checkpoint(engine: Engine, lease: Lease, *, step: int = 10) -> bool:
    with unit_of_work(engine) as session:
        return service.record_checkpoint(session, lease, step=step, blob_key=f"k/{step}", checksum="c", metrics={"loss": 1.0})


def wait_for_no_one(engine: Engine, owners: list[str], claimed: list[Lease], gate: threading.Barrier) -> None:
    gate.wait()
    while (lease := claim(engine, owner=owners[0])) is not None:
        claimed.append(lease)


def test_claiming_an_empty_queue_gives_none(engine: Engine) -> None:
    assert claim(engine) is None


def test_a_claim_takes_the_oldest_job(engine: Engine) -> None:
    middle = insert_job(engine, created_at=2.0)
    oldest = insert_job(engine, created_at=1.0)
    newest = insert_job(engine, created_at=3.0)

    assert [must_claim(engine).job_id for _ in range(3)] == [oldest, middle, newest]


def test_a_claim_writes_owner_fence_attempt_and_start(engine: Engine) -> None:
    job_id = insert_job(engine)

    lease = must_claim(engine, owner="host-7")

    job = read_job(engine, job_id)
    assert lease == Lease(job_id, 1)
    assert (job.status, job.lease_owner, job.fence, job.attempts) == ("running", "host-7", 1, 1)
    assert job.started_at is not None


def test_a_second_claim_keeps_the_first_start(engine: Engine) -> None:
    job_id = insert_job(engine, status=JobStatus.INTERRUPTED, started_at=7.0)

    must_claim(engine)

    assert read_job(engine, job_id).started_at == 7.0


def test_a_job_that_is_not_due_yet_is_not_claimed(engine: Engine) -> None:
    insert_job(engine, due_at=9e9)

    assert claim(engine) is None


@pytest.mark.parametrize("status", [status for status in JobStatus if status not in leases.CLAIMABLE])
def test_a_job_in_any_other_state_is_not_claimed(engine: Engine, status: JobStatus) -> None:
    insert_job(engine, status=status)

    assert claim(engine) is None


def test_many_threads_claiming_at_once_get_every_job_once(engine: Engine) -> None:
    job_ids = {insert_job(engine) for _ in range(24)}
    claimed: list[list[Lease]] = [[] for _ in range(4)]
    gate = threading.Barrier(4)
    threads = [threading.Thread(target=wait_for_no_one, args=(engine, [f"worker-{n}"], claimed[n], gate)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    everything = [lease.job_id for part in claimed for lease in part]
    assert sorted(everything) == sorted(job_ids)
    assert all(read_job(engine, job_id).fence == 1 for job_id in job_ids)


def test_two_transactions_open_at_once_never_claim_the_same_job(engine: Engine) -> None:
    first_id, second_id = insert_job(engine, created_at=1.0), insert_job(engine, created_at=2.0)
    first_has_claimed, second_has_ended = threading.Event(), threading.Event()
    got: list[Lease | None] = []

    def claim_second() -> None:
        first_has_claimed.wait(10)
        got.append(claim(engine, owner="second"))
        second_has_ended.set()

    thread = threading.Thread(target=claim_second)
    thread.start()
    with unit_of_work(engine) as session:
        lease = leases.claim_next(session, owner="first", lease_s=60)
        first_has_claimed.set()
        # PostgreSQL: the second passes over the locked row. SQLite: it waits for this transaction's end.
        second_has_ended.wait(0.3)
    thread.join()

    assert lease == Lease(first_id, 1)
    assert got == [Lease(second_id, 1)]


def test_renewing_extends_the_lease(engine: Engine) -> None:
    lease = must_claim_new(engine, lease_s=5)
    before = read_job(engine, lease.job_id).lease_until

    renew(engine, lease)

    after = read_job(engine, lease.job_id).lease_until
    assert before is not None and after is not None and after > before + 50


def must_claim_new(engine: Engine, *, lease_s: float = 60.0) -> Lease:
    insert_job(engine)
    return must_claim(engine, lease_s=lease_s)


def test_renewing_says_that_the_user_wishes_nothing(engine: Engine) -> None:
    assert renew(engine, must_claim_new(engine)) is JobWish.NONE


@pytest.mark.parametrize("wish", [JobWish.PAUSE, JobWish.CANCEL])
def test_renewing_brings_the_users_wish(engine: Engine, wish: JobWish) -> None:
    lease = must_claim_new(engine)
    with unit_of_work(engine) as session:
        if wish is JobWish.PAUSE:
            service.pause(session, lease.job_id)
        else:
            service.cancel(session, lease.job_id, kind="finetune")

    assert renew(engine, lease) is wish


def test_renewing_a_lease_that_another_worker_has_taken_gives_none(engine: Engine) -> None:
    stale = must_claim_new(engine)
    interrupt(engine, stale)
    must_claim(engine, owner="worker-2")

    assert renew(engine, stale) is None


def test_renewing_the_lease_of_a_job_that_has_ended_gives_none(engine: Engine) -> None:
    lease = must_claim_new(engine)
    with unit_of_work(engine) as session:
        service.fail(session, lease, code="nothing_to_train", message="No rows.", param=None)

    assert renew(engine, lease) is None


def test_a_lease_has_expired_only_after_its_time(engine: Engine) -> None:
    alive, dead = must_claim_new(engine), must_claim_new(engine)
    let_lease_die(engine, dead.job_id)

    with read_only(engine) as session:
        assert leases.expired(session) == [dead]
    assert alive != dead


def test_a_dead_lease_leaves_the_job_interrupted_and_due(engine: Engine) -> None:
    lease = must_claim_new(engine)
    let_lease_die(engine, lease.job_id)

    assert interrupt(engine, lease, expired_only=True)

    job = read_job(engine, lease.job_id)
    assert (job.status, job.attempts) == ("interrupted", 1)
    with read_only(engine) as session:
        assert job.due_at <= clock(session)


def test_a_lease_that_was_renewed_meanwhile_is_not_ended(engine: Engine) -> None:
    lease = must_claim_new(engine)

    assert not interrupt(engine, lease, expired_only=True)
    assert read_job(engine, lease.job_id).status == "running"


def test_a_stale_worker_cannot_interrupt_its_successor(engine: Engine) -> None:
    stale = must_claim_new(engine)
    interrupt(engine, stale)
    fresh = must_claim(engine, owner="worker-2")

    assert not interrupt(engine, stale)
    assert renew(engine, fresh) is JobWish.NONE


def test_interrupting_a_job_that_is_gone_does_nothing(engine: Engine) -> None:
    assert not interrupt(engine, Lease("ftjob-none", 1))


def test_the_third_loss_without_a_checkpoint_fails_the_job_as_worker_lost(engine: Engine) -> None:
    insert_job(engine)
    for _ in range(3):
        lease = must_claim(engine)
        interrupt(engine, lease)

    job = read_job(engine, lease.job_id)
    assert (job.status, job.error_code, job.fence) == ("failed", "worker_lost", 3)
    assert "create the job again" in str(job.error_message)
    assert claim(engine) is None


def test_a_new_checkpoint_starts_the_count_of_attempts_anew(engine: Engine) -> None:
    insert_job(engine)
    for round_number in range(5):
        lease = must_claim(engine)
        checkpoint(engine, lease, step=round_number + 1)
        interrupt(engine, lease)

    assert read_job(engine, lease.job_id).status == "interrupted"


def test_a_checkpoint_of_a_step_reached_before_is_no_progress_and_the_attempts_have_an_end(engine: Engine) -> None:
    lease = must_claim_new(engine)
    checkpoint(engine, lease, step=4)
    interrupt(engine, lease)
    for _ in range(3):
        lease = must_claim(engine)
        checkpoint(engine, lease, step=4)
        interrupt(engine, lease)

    assert read_job(engine, lease.job_id).status == "failed"


@pytest.mark.parametrize(("wish", "status"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_pending_wish_is_granted_when_the_lease_dies(engine: Engine, wish: str, status: str) -> None:
    job_id = insert_job(engine, status=JobStatus.RUNNING, wish=wish, fence=1, attempts=1, lease_owner="w", lease_until=1.0)

    interrupt(engine, Lease(job_id, 1), expired_only=True)

    assert (read_job(engine, job_id).status, read_job(engine, job_id).wish) == (status, "none")


def test_a_pending_cancel_wins_over_the_third_loss(engine: Engine) -> None:
    job_id = insert_job(engine, status=JobStatus.RUNNING, wish="cancel", fence=3, attempts=3, lease_owner="w", lease_until=1.0)

    interrupt(engine, Lease(job_id, 3), expired_only=True)

    assert read_job(engine, job_id).status == "cancelled"


def test_a_checkpoint_of_a_fenced_worker_is_not_recorded(engine: Engine) -> None:
    stale = must_claim_new(engine)
    interrupt(engine, stale)
    must_claim(engine, owner="worker-2")

    assert not checkpoint(engine, stale)
    assert "Checkpoint at step 10." not in [event.message for event in read_events(engine, stale.job_id)]


def test_the_same_step_written_again_replaces_its_checkpoint(engine: Engine) -> None:
    lease = must_claim_new(engine)
    checkpoint(engine, lease, step=4)
    interrupt(engine, lease)
    fresh = must_claim(engine)

    assert checkpoint(engine, fresh, step=4)

    with read_only(engine) as session:
        rows = service.repository.checkpoints_newest_first(session, lease.job_id)
    assert [(row.step, row.fence) for row in rows] == [(4, 2)]


def test_times_are_the_databases_and_not_this_hosts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    job_id = insert_job(engine)

    must_claim(engine, lease_s=60)

    job = read_job(engine, job_id)
    with read_only(engine) as session:
        now = clock(session)
    assert now > 1.7e9
    assert job.started_at == pytest.approx(now, abs=30)
    assert job.lease_until == pytest.approx(now + 60, abs=30)


def test_due_jobs_are_counted(engine: Engine) -> None:
    insert_job(engine)
    insert_job(engine, status=JobStatus.INTERRUPTED)
    insert_job(engine, status=JobStatus.PAUSED)
    insert_job(engine, due_at=9e9)

    with read_only(engine) as session:
        assert leases.due_count(session) == 2
