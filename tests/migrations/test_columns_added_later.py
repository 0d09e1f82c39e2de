"""The migrations after the first: they go up and down over rows that are there, and leave the schema of the models."""

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from app.codebook import models as _codebook
from app.datasets import models as _datasets
from app.db.base import Base
from app.db.engine import make_engine
from app.db.migrating import downgrade, is_current, upgrade
from app.evaluations import models as _evaluations
from app.exports import models as _exports
from app.jobs import models as _jobs
from app.jobs.models import Checkpoint
from tests.fixtures.db import Databases
from tests.fixtures.queue import insert_file, insert_job, read_job, row_count

_TABLES_OF: tuple[Any, ...] = (_codebook, _datasets, _evaluations, _exports, _jobs)


def columns(engine: Engine, table: str) -> set[str]:
    return {column["name"] for column in inspect(engine).get_columns(table)}


def test_the_models_are_what_the_migrations_make(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_down_and_up_again_keeps_every_row(engine: Engine) -> None:
    file_id = insert_file(engine)
    job_id = insert_job(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO checkpoints (id, job_id, step, fence, blob_key, checksum, metrics, created_at) "
                "VALUES ('c', :job_id, 1, 1, 'k', 's', '{}', 0)"
            ),
            {"job_id": job_id},
        )
    downgrade(engine, "0001")
    assert not columns(engine, "files") & {"parent_id", "provenance"}
    assert not columns(engine, "jobs") & {"extra_codes", "codebook_version"}
    assert not {"codebook", "codebook_entries"} & set(inspect(engine).get_table_names())
    upgrade(engine)
    assert is_current(engine)
    assert read_job(engine, job_id).id == job_id
    # A table made anew under its children would have taken them along.
    assert row_count(engine, Checkpoint) == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, parent_id FROM files")).all() == [(file_id, None)]


@pytest.mark.parametrize("stop", ["0001", "0002"])
def test_an_older_database_comes_up_to_date(databases: Databases, dialect: str, stop: str) -> None:
    with databases.database(dialect, migrated=False) as url:
        engine = make_engine(url)
        upgrade(engine, stop)
        upgrade(engine)
        assert is_current(engine)
        engine.dispose()
