from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect
from typer.testing import CliRunner

from app.cli.main import cli
from app.db.base import Base
from app.db.engine import make_engine
from app.db.migrating import _config, downgrade, is_current, upgrade
from app.db.unit_of_work import unit_of_work
from app.jobs.leases import renew
from app.jobs.states import JobWish
from app.main import create_app
from tests.fixtures.db import Databases
from tests.fixtures.queue import insert_adapter, insert_job, must_claim, read_events

SCRIPTS = ScriptDirectory.from_config(_config())
HEAD = str(SCRIPTS.get_current_head())


@pytest.fixture
def new_engine(databases: Databases, dialect: str) -> Iterator[Engine]:
    """Yields an engine on a database without any table."""
    with databases.database(dialect, migrated=False) as url:
        made = make_engine(url)
        yield made
        made.dispose()


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def test_the_migrations_make_every_table_from_nothing(new_engine: Engine) -> None:
    upgrade(new_engine)

    assert callable(create_app)  # its import has declared every table
    assert tables(new_engine) == set(Base.metadata.tables)


def test_the_migrations_and_the_models_say_the_same(new_engine: Engine) -> None:
    upgrade(new_engine)

    with new_engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_last_revision_goes_down_and_up_again(new_engine: Engine) -> None:
    upgrade(new_engine)
    before = str(SCRIPTS.get_revision(HEAD).down_revision or "base")

    downgrade(new_engine, before)
    assert not is_current(new_engine)

    upgrade(new_engine)
    assert is_current(new_engine)
    assert tables(new_engine) == set(Base.metadata.tables)


def test_every_revision_goes_down_to_nothing(new_engine: Engine) -> None:
    upgrade(new_engine)

    downgrade(new_engine, "base")

    assert tables(new_engine) == set()


def test_a_second_upgrade_changes_nothing(new_engine: Engine) -> None:
    upgrade(new_engine)
    insert_job(new_engine)

    upgrade(new_engine)

    assert must_claim(new_engine).fence == 1


def test_two_upgrades_at_once_wait_for_each_other(new_engine: Engine) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: upgrade(new_engine), range(2)))

    assert is_current(new_engine)


def test_a_database_without_tables_is_not_current(new_engine: Engine) -> None:
    assert not is_current(new_engine)


def test_there_is_one_head() -> None:
    assert len(SCRIPTS.get_heads()) == 1


def test_a_migrated_database_does_the_work(new_engine: Engine) -> None:
    upgrade(new_engine)
    job_id = insert_job(new_engine)
    must_claim(new_engine)

    assert insert_adapter(new_engine) == "telecom:1"
    assert [event.number for event in read_events(new_engine, job_id)] == [1]


def test_a_job_in_flight_goes_down_and_up_with_the_schema_and_keeps_its_lease(new_engine: Engine) -> None:
    upgrade(new_engine)
    job_id = insert_job(new_engine)
    lease = must_claim(new_engine)

    downgrade(new_engine, str(SCRIPTS.get_revision(HEAD).down_revision))
    upgrade(new_engine)

    with unit_of_work(new_engine) as session:
        assert renew(session, lease, lease_s=60) is JobWish.NONE
    assert insert_adapter(new_engine) == "telecom:1"
    assert [event.number for event in read_events(new_engine, job_id)] == [1]


def test_the_command_goes_back_to_a_revision_and_names_one_that_is_not_there(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    with databases.database("sqlite") as url:
        monkeypatch.setenv("DIANDA_DATABASE_URL", url)
        down = CliRunner().invoke(cli, ["migrate", "--down-to", "0008"])
        assert down.exit_code == 0, down.output
        assert not is_current(make_engine(url))
        assert CliRunner().invoke(cli, ["migrate", "--down-to", "nowhere"]).exit_code == 1
        assert CliRunner().invoke(cli, ["migrate"]).exit_code == 0
        assert is_current(make_engine(url))
