"""Names of models are remembered for a second, and read again by one caller while the others go on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from app.answers import model_names
from app.answers.model_names import ModelNames
from app.errors import NotFound
from app.ml.model_store import ModelStore
from tests.fixtures.queue import insert_adapter


@pytest.fixture
def names(engine: Engine, tmp_path: Path) -> ModelNames:
    return ModelNames(engine, ModelStore(tmp_path, {}))


@pytest.fixture
def begins(engine: Engine) -> Iterator[list[int]]:
    seen: list[int] = []

    def note(_: object) -> None:
        seen.append(1)

    event.listen(engine, "begin", note)
    yield seen
    event.remove(engine, "begin", note)


def test_callers_at_once_share_one_reading(engine: Engine, names: ModelNames, begins: list[int]) -> None:
    insert_adapter(engine)
    begins.clear()

    async def together() -> None:
        found = await asyncio.gather(*(names.resolve("telecom:1") for _ in range(20)))
        assert {one.adapter_id for one in found} == {"telecom:1"}

    asyncio.run(together())
    assert len(begins) == 1


def test_while_one_reads_again_the_others_go_on_with_what_it_stood_for(
    engine: Engine, names: ModelNames, begins: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_adapter(engine)

    async def again() -> None:
        await names.resolve("telecom:1")
        monkeypatch.setattr(model_names, "_KEPT_S", 0.0)
        begins.clear()
        await asyncio.gather(*(names.resolve("telecom:1") for _ in range(20)))

    asyncio.run(again())
    assert len(begins) == 1


def test_a_caller_that_goes_away_does_not_take_the_reading_with_it(engine: Engine, names: ModelNames) -> None:
    insert_adapter(engine)

    async def leave() -> str | None:
        leaving = asyncio.create_task(names.resolve("telecom:1"))
        staying = asyncio.create_task(names.resolve("telecom:1"))
        await asyncio.sleep(0)
        leaving.cancel()
        return (await staying).adapter_id

    assert asyncio.run(leave()) == "telecom:1"


def test_a_name_that_stands_for_nothing_is_told_to_all_and_asked_again(engine: Engine, names: ModelNames) -> None:
    async def ask() -> str | None:
        for outcome in await asyncio.gather(*(names.resolve("telecom:1") for _ in range(3)), return_exceptions=True):
            assert isinstance(outcome, NotFound)
        insert_adapter(engine)
        return (await names.resolve("telecom:1")).adapter_id

    assert asyncio.run(ask()) == "telecom:1"
