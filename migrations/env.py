"""Alembic's environment: the connection comes from `app.db.migrating`, or from the settings for the alembic command."""

from typing import Any

from alembic import context
from sqlalchemy import Connection

from app.access import models as _access
from app.adapters import models as _adapters
from app.codebook import models as _codebook
from app.datasets import models as _datasets
from app.db.base import Base
from app.db.engine import make_engine
from app.evaluations import models as _evaluations
from app.exports import models as _exports
from app.jobs import models as _jobs
from app.settings import Settings

_TABLES_OF: tuple[Any, ...] = (_access, _adapters, _codebook, _datasets, _evaluations, _exports, _jobs)


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    _run(connection)
else:
    with make_engine(Settings().resolved_database_url).begin() as opened:
        _run(opened)
