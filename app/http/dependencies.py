"""What endpoints depend on: the parts that `app.main` put into the app's state, and the request's transaction."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.blobs.store import BlobStore
from app.db.unit_of_work import read_only, unit_of_work
from app.ml.model_store import ModelStore


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _blobs(request: Request) -> BlobStore:
    blobs: BlobStore = request.app.state.blobs
    return blobs


def _store(request: Request) -> ModelStore:
    store: ModelStore = request.app.state.model_store
    return store


async def _turn(request: Request) -> AsyncIterator[None]:
    # Fewer than the 40 threads that run endpoints and serialise their replies: else forty requests that wait for one
    # row's lock would hold every thread that the lock's owner needs to finish.
    async with request.app.state.database_turns:
        yield


_TurnDep = Annotated[None, Depends(_turn, scope="function")]


def _transaction(engine: Annotated[Engine, Depends(_engine)], turn: _TurnDep) -> Iterator[Session]:
    with unit_of_work(engine) as session:
        yield session


def _reading(engine: Annotated[Engine, Depends(_engine)], turn: _TurnDep) -> Iterator[Session]:
    with read_only(engine) as session:
        yield session


EngineDep = Annotated[Engine, Depends(_engine)]
BlobsDep = Annotated[BlobStore, Depends(_blobs)]
StoreDep = Annotated[ModelStore, Depends(_store)]
# Function scope: the commit comes before the response is sent, so a failed commit is a 500 and never a lie.
TransactionDep = Annotated[Session, Depends(_transaction, scope="function")]
ReadingDep = Annotated[Session, Depends(_reading, scope="function")]

AfterParam = Annotated[str | None, Query(max_length=128, description="Last id of the page before.")]
LimitParam = Annotated[int, Query(ge=1, le=100, description="Most rows of a page.")]
IdempotencyKeyParam = Annotated[
    str | None,
    Header(
        max_length=255,
        description="A name of yours for this request: sent again with the same body, it gives what it made the first time; with "
        "another body it is refused (422).",
    ),
]
