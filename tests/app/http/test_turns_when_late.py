"""A loop that is late: fewer turns, and refusals that cost nothing else."""

import asyncio
import time
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient

from app.http.early_refusal import EarlyRefusal
from app.http.loop_lag import LoopLag
from app.http.turns import Busy, Turns


async def _refused_app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("the app must not be asked")


def test_a_late_loop_has_thirty_two_turns() -> None:
    lag = LoopLag()
    turns = Turns(128, lag=lag)
    with ExitStack() as held:
        for _ in range(32):
            held.enter_context(turns.take())
        assert not turns.are_taken
        lag.is_late = True
        assert turns.are_taken
        with pytest.raises(Busy), turns.take():
            pass


def test_a_late_loop_gives_no_more_turns_than_there_are() -> None:
    lag = LoopLag()
    lag.is_late = True
    turns = Turns(1, lag=lag)
    with turns.take():
        assert turns.are_taken


def test_a_loop_that_is_held_up_is_late_until_it_is_not() -> None:
    async def hold_up() -> tuple[bool, bool, bool]:
        lag = LoopLag()
        watching = asyncio.create_task(lag.watch())
        await asyncio.sleep(0.03)
        before = lag.is_late
        during = False
        # The watch looks in one of the two turns after a hold-up; where others hold the machine it may have looked just before,
        # or once more, in time, after the second: one hold-up of five is seen.
        for _ in range(5):
            time.sleep(0.2)
            for _ in range(2):
                await asyncio.sleep(0)
                during = during or lag.is_late
            if during:
                break
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not lag.is_late:
                break
        watching.cancel()
        return before, during, lag.is_late

    _, during, after = asyncio.run(hold_up())

    assert (during, after) == (True, False)


def test_who_finds_no_turn_is_refused_in_our_shape_before_the_app_is_asked() -> None:
    turns = Turns(1)
    client = TestClient(EarlyRefusal(_refused_app, turns=turns, paths=("/answer",)))  # type: ignore[arg-type]
    with turns.take():
        response = client.post("/answer", json={}, headers={"x-request-id": "mine"})

    assert (response.status_code, response.json()["error"]["code"]) == (429, "too_busy")
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert (response.headers["retry-after"], response.headers["x-request-id"]) == ("2", "mine")


def test_an_unusable_request_id_is_not_echoed() -> None:
    turns = Turns(1)
    client = TestClient(EarlyRefusal(_refused_app, turns=turns, paths=("/answer",)))  # type: ignore[arg-type]
    with turns.take():
        response = client.post("/answer", json={}, headers={"x-request-id": "a b"})

    assert "x-request-id" not in response.headers
