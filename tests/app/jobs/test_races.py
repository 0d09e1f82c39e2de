"""Two transactions at once. On SQLite they stand in line; PostgreSQL runs them side by side, and row locks must decide."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.adapters import aliases
from app.adapters import service as adapters
from app.datasets import service as datasets
from app.db.unit_of_work import unit_of_work
from app.errors import Conflict
from app.jobs import leases, repository, service
from tests.fixtures.queue import insert_adapter, insert_file, insert_job, must_claim, read_job


@contextmanager
def transaction_with_another_beside_it(engine: Engine, other: Callable[[Session], object]) -> Iterator[Session]:
    """Yields a session; before it commits, `other` has begun in a transaction of its own and waits for it where it must."""
    failures: list[BaseException] = []

    def run_other() -> None:
        try:
            with unit_of_work(engine) as session:
                other(session)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run_other)
    with unit_of_work(engine) as session:
        yield session
        thread.start()
        thread.join(0.3)
    thread.join(20)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def create_adapter(session: Session, *, name: str = "telecom") -> None:
    adapters.create(session, name=name, base_model="b", job_id="j", checksum="c" * 64, blob_key="adapters/c", spec={}, metrics={})


def test_a_cancel_that_comes_while_the_lease_is_ended_is_not_forgotten(engine: Engine) -> None:
    job_id = insert_job(engine)
    lease = must_claim(engine)

    with transaction_with_another_beside_it(engine, lambda other: leases.interrupt(other, lease, reason="lost.")) as session:
        service.cancel(session, job_id, kind=repository.FINETUNE)

    assert read_job(engine, job_id).status == "cancelled"


def test_a_cancel_beside_a_claim_is_either_at_once_or_a_wish(engine: Engine) -> None:
    job_id = insert_job(engine)

    def cancel(other: Session) -> None:
        service.cancel(other, job_id, kind=repository.FINETUNE)

    with transaction_with_another_beside_it(engine, cancel) as session:
        leases.claim_next(session, owner="worker-1", lease_s=60)

    job = read_job(engine, job_id)
    assert (job.status, job.wish) == ("running", "cancel")


def test_two_jobs_that_finish_under_one_new_name_get_two_versions(engine: Engine) -> None:
    with transaction_with_another_beside_it(engine, create_adapter) as session:
        create_adapter(session)

    with unit_of_work(engine) as session:
        assert adapters.resolve(session, "telecom:2", store=None).adapter_id == "telecom:2"  # type: ignore[arg-type]


def test_of_two_first_moves_of_one_alias_the_slower_is_refused(engine: Engine) -> None:
    first, second = insert_adapter(engine), insert_adapter(engine)
    refusals: list[str] = []

    def point_to(session: Session, adapter_id: str) -> None:
        aliases.point(session, "telecom@production", aliases.Move(None, adapter_id, None), aliases.Author())

    def come_too_late(other: Session) -> None:
        try:
            point_to(other, second)
        except aliases.AliasMoved as error:
            refusals.append(error.message)

    with transaction_with_another_beside_it(engine, come_too_late) as session:
        point_to(session, first)

    with unit_of_work(engine) as session:
        moves = adapters.repository.moves_of(session, "telecom@production", limit=10)
        assert [(move.from_adapter_id, move.to_adapter_id) for move in moves] == [(None, first)]
    assert refusals


def test_a_file_cannot_be_deleted_beside_the_job_that_begins_to_use_it(engine: Engine) -> None:
    file_id = insert_file(engine)
    refusals: list[str] = []

    def delete(other: Session) -> None:
        try:
            datasets.delete(other, file_id, users_of=[repository.find_unfinished_user_of_file])
        except Conflict as error:
            refusals.append(error.message)

    with transaction_with_another_beside_it(engine, delete) as session:
        service._trainable(session, file_id, "training_file")
        session.add(
            service.Job(
                id="ftjob-1", kind="finetune", status="queued", base_model="b", training_file_id=file_id, spec={},
                hyperparameters={}, seed=0, user_metadata={}, created_at=1.0, due_at=1.0,
            )
        )  # fmt: skip
        session.flush()

    assert refusals and "ftjob-1" in refusals[0]


def test_the_longest_name_and_adapter_fit_their_columns(engine: Engine) -> None:
    insert_job(engine, suffix="a" * 64)
    lease = must_claim(engine, owner="h" * 64 + "-4194304")

    with unit_of_work(engine) as session:
        adapter = service.finish_finetune(
            session, lease, checksum="c" * 64, blob_key="k" * 200, metrics={}, trained_tokens=2**40, result_file_ids={}
        )

    assert adapter is not None
    assert read_job(engine, lease.job_id).adapter_id == "a" * 64 + ":1"
