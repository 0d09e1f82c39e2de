"""The engine's room leaves the card and comes back: over a tiny model, in this process."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.answerer.room import EngineRoom
from app.answers.backend import ServingPaused
from app.blobs.local import LocalBlobStore
from app.ml.engine.asks import EngineAnswer
from app.ml.model_store import ModelStore
from tests.fixtures.tiny import TINY, make_tiny_store

pytestmark = pytest.mark.timeout(400)
LONG_S = 300.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return make_tiny_store(tmp_path_factory.mktemp("models"))


@asynccontextmanager
async def running_room(store: ModelStore, tmp_path: Path, **options: Any) -> AsyncIterator[EngineRoom]:
    room = EngineRoom(store, LocalBlobStore(tmp_path), base_model=TINY, max_pending=64, threads=1, **options)
    room.start_loading()
    try:
        await until(lambda: room.missing() is None)
        yield room
    finally:
        room.close()


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(18_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("timed out")


async def ask(room: EngineRoom, *questions: str) -> list[EngineAnswer]:
    return await room.answer(questions or ("甲",), base_model=TINY, checksum=None, alternatives=0)


async def suspend(room: EngineRoom, lease_s: float = LONG_S) -> bool:
    return await room.suspend("worker-1", lease_s=lease_s, wait_s=180)


def test_a_question_during_a_pause_is_refused(store: ModelStore, tmp_path: Path) -> None:
    async def run() -> None:
        async with running_room(store, tmp_path) as room:
            assert await suspend(room)
            assert room.missing() is not None and room.missing()[0] == "suspended"  # type: ignore[index]
            with pytest.raises(ServingPaused):
                await ask(room)

    asyncio.run(run())


def test_a_pause_leaves_nothing_of_the_model_in_memory(store: ModelStore, tmp_path: Path) -> None:
    async def run() -> None:
        async with running_room(store, tmp_path) as room:
            await ask(room)
            assert room._engine is not None
            network = weakref.ref(room._engine.base.network)
            assert await suspend(room)
            assert network() is None

    gc.collect()
    asyncio.run(run())


def test_after_a_pause_it_answers_as_before(store: ModelStore, tmp_path: Path) -> None:
    async def run() -> None:
        async with running_room(store, tmp_path) as room:
            before = await ask(room)
            await suspend(room)
            room.resume("worker-1")
            await until(lambda: room.missing() is None)
            after = await ask(room)
            assert [one.best.codes for one in after] == [one.best.codes for one in before]
            assert room.pause is None

    asyncio.run(run())


def test_a_pause_whose_holder_died_ends_by_itself(store: ModelStore, tmp_path: Path) -> None:
    async def run() -> None:
        async with running_room(store, tmp_path) as room:
            await suspend(room, lease_s=0.2)
            await until(lambda: room.missing() is None)
            assert len(await ask(room)) == 1

    asyncio.run(run())


def test_questions_of_before_the_pause_are_answered(store: ModelStore, tmp_path: Path) -> None:
    async def run() -> None:
        async with running_room(store, tmp_path) as room:
            waiting = [asyncio.create_task(ask(room, "甲" * (1 + number))) for number in range(16)]
            await asyncio.sleep(0)
            assert await suspend(room)
            answers = await asyncio.gather(*waiting)
            assert [len(answer) for answer in answers] == [1] * 16

    asyncio.run(run())


def test_a_pause_that_begins_while_the_model_loads_is_kept(store: ModelStore, tmp_path: Path) -> None:
    async def run() -> None:
        room = EngineRoom(store, LocalBlobStore(tmp_path), base_model=TINY, max_pending=64, threads=1)
        room.start_loading()
        try:
            assert await suspend(room)
            with pytest.raises(ServingPaused):
                await ask(room)
        finally:
            room.close()

    asyncio.run(run())


def test_where_the_cpu_takes_over_a_pause_stops_no_answer(store: ModelStore, tmp_path: Path) -> None:
    async def run() -> None:
        async with running_room(store, tmp_path, answers_on_cpu=True) as room:
            before = room._engine
            assert await suspend(room)
            await until(lambda: room.missing() is None)
            assert room._engine is not before
            assert len(await ask(room)) == 1
            assert room.pause is not None and "CPU" in room.pause

    asyncio.run(run())


def test_a_room_that_rests_can_be_closed(store: ModelStore, tmp_path: Path) -> None:
    async def run() -> EngineRoom:
        async with running_room(store, tmp_path) as room:
            await suspend(room)
        return room

    assert not asyncio.run(run())._thread.is_alive()
