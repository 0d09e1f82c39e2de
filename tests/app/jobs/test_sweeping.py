from sqlalchemy import Engine

from app.db.unit_of_work import read_only
from app.jobs import repository
from app.jobs.states import JobStatus
from app.jobs.sweeping import sweep
from tests.fixtures.queue import RecordingDoorbell, insert_job, let_lease_die, must_claim, read_job


def test_a_round_ends_every_dead_lease_and_no_other(engine: Engine) -> None:
    insert_job(engine)
    insert_job(engine)
    dead, alive = must_claim(engine), must_claim(engine)
    let_lease_die(engine, dead.job_id)

    assert sweep(engine, RecordingDoorbell()) == 1

    assert read_job(engine, dead.job_id).status == "interrupted"
    assert read_job(engine, alive.job_id).status == "running"


def test_a_second_round_ends_nothing_more(engine: Engine) -> None:
    insert_job(engine)
    let_lease_die(engine, must_claim(engine).job_id)
    bell = RecordingDoorbell()

    assert [sweep(engine, bell), sweep(engine, bell)] == [1, 0]


def test_a_round_rings_for_the_job_that_it_interrupted(engine: Engine) -> None:
    insert_job(engine)
    let_lease_die(engine, must_claim(engine).job_id)
    bell = RecordingDoorbell()

    sweep(engine, bell)

    assert len(bell.rung) == 1


def test_one_bell_is_rung_however_many_jobs_are_due(engine: Engine) -> None:
    for _ in range(3):
        insert_job(engine)
    bell = RecordingDoorbell()

    sweep(engine, bell)

    assert len(bell.rung) == 1


def test_no_bell_is_rung_while_one_waits_unheard(engine: Engine) -> None:
    insert_job(engine)
    bell = RecordingDoorbell(unheard=1)

    sweep(engine, bell)

    assert bell.rung == []


def test_no_bell_is_rung_while_the_broker_is_away(engine: Engine) -> None:
    insert_job(engine)
    bell = RecordingDoorbell(unheard=None)

    sweep(engine, bell)

    assert bell.rung == []


def test_no_bell_is_rung_where_no_job_is_due(engine: Engine) -> None:
    insert_job(engine, status=JobStatus.PAUSED)
    bell = RecordingDoorbell()

    sweep(engine, bell)

    assert bell.rung == []


def test_two_sweepers_end_a_lease_once(engine: Engine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    insert_job(engine)
    lease = must_claim(engine)
    let_lease_die(engine, lease.job_id)

    with ThreadPoolExecutor(2) as pool:
        ended = sum(pool.map(lambda _: sweep(engine, RecordingDoorbell()), range(2)))

    assert ended == 1
    with read_only(engine) as session:
        assert repository.get(session, lease.job_id).event_count == 2
