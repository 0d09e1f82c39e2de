import threading
import time

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from app.datasets.models import Dataset
from app.db.clock import db_now
from app.db.engine import make_engine
from app.db.locks import hold_name
from app.db.paging import page
from app.db.unit_of_work import after_commit, read_only, unit_of_work
from app.errors import InvalidInput
from app.jobs.models import Job
from tests.fixtures.db import Databases, failing_commits
from tests.fixtures.queue import insert_file, insert_job, read_job, row_count


def a_file(file_id: str = "file-1") -> Dataset:
    return Dataset(id=file_id, purpose="evals", filename="f", size_bytes=1, sha256="0", blob_key="k", report=None, created_at=1.0)


class TestUnitOfWork:
    def test_a_block_that_ends_is_committed(self, engine: Engine) -> None:
        with unit_of_work(engine) as session:
            session.add(a_file())

        assert row_count(engine, Dataset) == 1

    def test_a_block_that_raises_is_rolled_back(self, engine: Engine) -> None:
        with pytest.raises(RuntimeError), unit_of_work(engine) as session:
            session.add(a_file())
            session.flush()
            raise RuntimeError

        assert row_count(engine, Dataset) == 0

    def test_a_constraint_that_fails_at_the_end_is_raised(self, engine: Engine) -> None:
        insert_file(engine, id="file-1")

        with pytest.raises(IntegrityError), unit_of_work(engine) as session:
            session.add(a_file())

    def test_what_follows_a_commit_sees_it(self, engine: Engine) -> None:
        seen: list[int] = []

        with unit_of_work(engine) as session:
            session.add(a_file())
            after_commit(session, lambda: seen.append(row_count(engine, Dataset)))

        assert seen == [1]

    def test_what_follows_a_commit_runs_in_order(self, engine: Engine) -> None:
        seen: list[int] = []

        with unit_of_work(engine) as session:
            after_commit(session, lambda: seen.append(1))
            after_commit(session, lambda: seen.append(2))

        assert seen == [1, 2]

    def test_nothing_follows_a_rollback(self, engine: Engine) -> None:
        seen: list[int] = []

        with pytest.raises(RuntimeError), unit_of_work(engine) as session:
            after_commit(session, lambda: seen.append(1))
            raise RuntimeError

        assert seen == []

    def test_nothing_follows_a_commit_that_fails(self, engine: Engine) -> None:
        seen: list[int] = []

        with failing_commits(engine), pytest.raises(OSError), unit_of_work(engine) as session:
            session.add(a_file())
            after_commit(session, lambda: seen.append(1))

        assert (seen, row_count(engine, Dataset)) == ([], 0)

    def test_a_follower_that_fails_neither_raises_nor_stops_the_next(self, engine: Engine) -> None:
        seen: list[int] = []

        def fail() -> None:
            raise ConnectionError

        with unit_of_work(engine) as session:
            after_commit(session, fail)
            after_commit(session, lambda: seen.append(2))

        assert seen == [2]

    def test_rows_stay_readable_after_the_commit(self, engine: Engine) -> None:
        with unit_of_work(engine) as session:
            dataset = a_file()
            session.add(dataset)

        assert dataset.filename == "f"


class TestReadOnly:
    def test_two_queries_see_the_database_at_one_moment(self, engine: Engine) -> None:
        with read_only(engine) as session:
            before = session.execute(text("SELECT count(*) FROM files")).scalar_one()
            insert_file(engine, id="file-1")
            after = session.execute(text("SELECT count(*) FROM files")).scalar_one()

        assert (before, after) == (0, 0)
        assert row_count(engine, Dataset) == 1


class TestSideBySide:
    def test_a_reader_does_not_wait_for_a_writer(self, engine: Engine) -> None:
        with unit_of_work(engine) as session:
            session.add(a_file())
            session.flush()
            started = time.monotonic()
            assert row_count(engine, Dataset) == 0

        assert time.monotonic() - started < 5

    def test_writers_that_read_first_wait_and_do_not_fail(self, engine: Engine) -> None:
        job_id = insert_job(engine)
        failures: list[BaseException] = []

        def count_up() -> None:
            try:
                for _ in range(5):
                    with unit_of_work(engine) as session:
                        job = session.get_one(Job, job_id, with_for_update=True)
                        job.attempts += 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=count_up) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failures == []
        assert read_job(engine, job_id).attempts == 30

    def test_holders_of_one_name_run_one_after_the_other(self, engine: Engine) -> None:
        order: list[str] = []
        first_holds = threading.Event()

        def second() -> None:
            first_holds.wait(10)
            with unit_of_work(engine) as session:
                hold_name(session, "thing", "a")
                order.append("second")

        thread = threading.Thread(target=second)
        thread.start()
        with unit_of_work(engine) as session:
            hold_name(session, "thing", "a")
            first_holds.set()
            thread.join(0.2)
            order.append("first")
        thread.join(10)

        assert order == ["first", "second"]


class TestSqlite:
    def test_a_file_is_safe_for_several_processes(self, databases: Databases) -> None:
        with databases.database("sqlite") as url:
            engine = make_engine(url)
            with engine.connect() as connection:
                values = [
                    connection.execute(text(f"PRAGMA {name}")).scalar()
                    for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                ]
            engine.dispose()

        assert values == ["wal", 2, 1, 15_000]

    def test_a_writing_transaction_takes_the_lock_at_its_beginning(self, databases: Databases) -> None:
        with databases.database("sqlite") as url:
            engine = make_engine(url)
            statements: list[str] = []
            with engine.connect() as connection:
                raw = connection.connection.driver_connection
                assert raw is not None
                raw.set_trace_callback(statements.append)
                connection.rollback()
            with unit_of_work(engine) as session:
                session.scalar(text("SELECT 1"))
            with read_only(engine) as session:
                session.scalar(text("SELECT 1"))
            engine.dispose()

        assert [statement for statement in statements if statement.startswith("BEGIN")][-2:] == ["BEGIN IMMEDIATE", "BEGIN"]

    def test_the_folder_of_a_new_database_is_made(self, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("new") / "deep" / "folder" / "dianda.db"

        engine = make_engine(f"sqlite:///{path}")
        engine.connect().close()
        engine.dispose()

        assert path.exists()


class TestClock:
    def test_the_databases_clock_says_seconds_since_1970(self, engine: Engine) -> None:
        with read_only(engine) as session:
            now = session.scalar(db_now())

        assert now == pytest.approx(time.time(), abs=30)

    def test_the_databases_clock_goes_on_within_a_transaction(self, engine: Engine) -> None:
        with read_only(engine) as session:
            first = session.scalar(db_now())
            time.sleep(0.02)
            second = session.scalar(db_now())

        assert first is not None and second is not None and second - first > 0.01


class TestPaging:
    @pytest.mark.parametrize("limit", [1, 2, 3, 7])
    def test_pages_of_any_size_show_every_row_once_newest_first(self, engine: Engine, limit: int) -> None:
        from sqlalchemy import select

        for number, created_at in enumerate((5.0, 5.0, 5.0, 6.0, 4.0)):
            insert_job(engine, id=f"job-{number}", created_at=created_at)
        seen: list[str] = []
        with read_only(engine) as session:
            has_more = True
            while has_more:
                rows, has_more = page(session, select(Job), Job, after=seen[-1] if seen else None, limit=limit)
                seen += [row.id for row in rows]

        assert seen == ["job-3", "job-2", "job-1", "job-0", "job-4"]

    def test_a_row_that_comes_meanwhile_shifts_no_page(self, engine: Engine) -> None:
        from sqlalchemy import select

        for number in range(3):
            insert_job(engine, id=f"job-{number}", created_at=float(number))
        with read_only(engine) as session:
            first, _ = page(session, select(Job), Job, after=None, limit=2)
        insert_job(engine, id="job-9", created_at=9.0)

        with read_only(engine) as session:
            second, has_more = page(session, select(Job), Job, after=first[-1].id, limit=2)

        assert ([row.id for row in second], has_more) == (["job-0"], False)

    def test_a_cursor_that_is_gone_is_an_error(self, engine: Engine) -> None:
        from sqlalchemy import select

        with read_only(engine) as session, pytest.raises(InvalidInput) as caught:
            page(session, select(Job), Job, after="job-none", limit=2)

        assert caught.value.param == "after"
