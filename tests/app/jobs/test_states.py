import pytest
from sqlalchemy import Engine

from app.db.unit_of_work import unit_of_work
from app.jobs.models import Job
from app.jobs.states import CLAIMABLE, MOVES, TERMINAL, JobStatus, move, sources_of
from tests.fixtures.queue import insert_job, read_events, read_job

PAIRS = [(source, target) for source in JobStatus for target in JobStatus]


def move_it(engine: Engine, job_id: str, to: JobStatus, *, fence: int | None = None) -> bool:
    with unit_of_work(engine) as session:
        return move(session, job_id, to, message=f"To {to.value}.", fence=fence)


def test_a_job_moves_exactly_where_the_table_allows(engine: Engine) -> None:
    job_ids = {pair: insert_job(engine, status=pair[0]) for pair in PAIRS}

    moved = {pair for pair, job_id in job_ids.items() if move_it(engine, job_id, pair[1])}

    assert moved == {(source, target) for source, targets in MOVES.items() for target in targets}


def test_a_refused_move_changes_neither_the_row_nor_its_events(engine: Engine) -> None:
    job_id = insert_job(engine, status=JobStatus.SUCCEEDED, finished_at=5.0)

    move_it(engine, job_id, JobStatus.QUEUED)

    job = read_job(engine, job_id)
    assert (job.status, job.finished_at, read_events(engine, job_id)) == ("succeeded", 5.0, [])


def test_the_design_names_eight_states_of_which_three_are_ends() -> None:
    assert {status.value for status in TERMINAL} == {"succeeded", "failed", "cancelled"}
    assert len(JobStatus) == 8


def test_only_queued_and_interrupted_jobs_can_be_claimed() -> None:
    assert {status.value for status in CLAIMABLE} == {"queued", "interrupted"}


def test_sources_of_is_the_table_read_backwards() -> None:
    assert all((source in sources_of(target)) == (target in MOVES[source]) for source, target in PAIRS)


def test_a_move_with_another_fence_is_refused(engine: Engine) -> None:
    job_id = insert_job(engine, status=JobStatus.RUNNING, fence=4)

    assert not move_it(engine, job_id, JobStatus.SUCCEEDED, fence=3)
    assert read_job(engine, job_id).status == "running"


def test_a_move_with_the_right_fence_succeeds(engine: Engine) -> None:
    job_id = insert_job(engine, status=JobStatus.RUNNING, fence=4)

    assert move_it(engine, job_id, JobStatus.SUCCEEDED, fence=4)


def test_a_move_whose_condition_does_not_hold_is_refused(engine: Engine) -> None:
    job_id = insert_job(engine, status=JobStatus.RUNNING, attempts=1)

    with unit_of_work(engine) as session:
        moved = move(session, job_id, JobStatus.FAILED, message="Failed.", only_if=Job.attempts > 1)

    assert not moved


def test_a_move_of_a_job_that_does_not_exist_is_refused(engine: Engine) -> None:
    assert not move_it(engine, "ftjob-none", JobStatus.CANCELLED)


def test_each_move_writes_one_event_with_the_new_status(engine: Engine) -> None:
    job_id = insert_job(engine)

    move_it(engine, job_id, JobStatus.PAUSED)
    move_it(engine, job_id, JobStatus.QUEUED)

    assert [(event.number, event.message, event.data) for event in read_events(engine, job_id)] == [
        (1, "To paused.", {"status": "paused"}),
        (2, "To queued.", {"status": "queued"}),
    ]


@pytest.mark.parametrize("end", sorted(TERMINAL))
def test_an_end_stamps_finished_at(engine: Engine, end: JobStatus) -> None:
    job_id = insert_job(engine, status=JobStatus.RUNNING)

    move_it(engine, job_id, end)

    job = read_job(engine, job_id)
    assert job.finished_at is not None and job.finished_at >= job.created_at


@pytest.mark.parametrize("waiting", [JobStatus.PAUSED, JobStatus.INTERRUPTED])
def test_a_move_that_is_no_end_stamps_nothing(engine: Engine, waiting: JobStatus) -> None:
    job_id = insert_job(engine, status=JobStatus.RUNNING)

    move_it(engine, job_id, waiting)

    assert read_job(engine, job_id).finished_at is None


@pytest.mark.parametrize("target", sorted(MOVES[JobStatus.RUNNING]))
def test_leaving_running_gives_the_lease_back_and_drops_the_wish(engine: Engine, target: JobStatus) -> None:
    job_id = insert_job(engine, status=JobStatus.RUNNING, wish="pause", lease_owner="worker-1", lease_until=2e10, fence=1)

    move_it(engine, job_id, target)

    job = read_job(engine, job_id)
    assert (job.wish, job.lease_owner, job.lease_until, job.fence) == ("none", None, None, 1)


def test_a_move_within_a_rolled_back_transaction_leaves_no_trace(engine: Engine) -> None:
    job_id = insert_job(engine)

    with pytest.raises(RuntimeError), unit_of_work(engine) as session:
        move(session, job_id, JobStatus.CANCELLED, message="Cancelled.")
        raise RuntimeError

    assert read_job(engine, job_id).status == "queued"
    assert read_events(engine, job_id) == []
