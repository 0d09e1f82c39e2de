"""What somebody who asks during a pause hears: over HTTP, from the api through the real answerer."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine

from app.answerer.main import create_app as create_answerer
from app.db.engine import make_engine
from app.jobs.states import JobStatus
from app.main import create_app
from tests.fixtures.api import make_settings, serving
from tests.fixtures.db import Databases, empty
from tests.fixtures.queue import RecordingDoorbell, insert_job
from tests.fixtures.tiny import TINY, write_tiny_model
from worker.serving_pause import ServingPause

pytestmark = pytest.mark.timeout(400)

# A busy machine loads even a tiny model slowly.
WAIT_S = 180


@dataclass
class Pair:
    """An api and its answerer, on two ports."""

    url: str
    answerer_url: str
    engine: Engine

    def ask(self) -> httpx2.Response:
        return httpx2.post(f"{self.url}/answer", json={"question": "怎么取消", "model": TINY}, timeout=WAIT_S)

    def ready(self) -> Any:
        return httpx2.get(f"{self.url}/health/ready", timeout=WAIT_S).json()

    def pause(self, lease_s: float = 60) -> ServingPause:
        return ServingPause([self.answerer_url], holder="worker-1", lease_s=lease_s)

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while self.ask().status_code != 200:
            assert time.monotonic() < deadline, self.ask().text
            time.sleep(0.2)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Pair]:
    data_dir = tmp_path_factory.mktemp("pair")
    write_tiny_model(data_dir / "models" / TINY)
    with databases.database("sqlite") as database_url:
        settings = make_settings(data_dir, database_url, base_model=TINY, threads=1, card_policy="pause_serving")
        with serving(create_answerer(settings)) as answerer_url:
            settings = settings.model_copy(update={"answerer_url": answerer_url})
            with serving(create_app(settings, doorbell=RecordingDoorbell())) as url:
                yield Pair(url, answerer_url, make_engine(database_url))


@pytest.fixture
def pair(running: Pair) -> Pair:
    empty(running.engine)
    # The last test's job is remembered for two seconds.
    running.wait_until_it_answers()
    return running


def test_a_refusal_says_which_job_trains_and_when_to_ask_again(pair: Pair) -> None:
    job_id = insert_job(pair.engine, status=JobStatus.RUNNING, progress={"seconds_remaining": 300.4})

    with pair.pause():
        refused = pair.ask()

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "serving_paused")
    assert refused.headers["retry-after"] == "306"
    assert error["details"] == {"job_id": job_id, "seconds_remaining": 300}
    assert job_id in error["message"]


def test_after_the_pause_it_answers(pair: Pair) -> None:
    with pair.pause():
        assert pair.ask().status_code == 503

    pair.wait_until_it_answers()


def test_a_paused_product_is_ready_and_says_that_it_pauses(pair: Pair) -> None:
    assert pair.ready()["checks"]["card"]["ok"]

    with pair.pause():
        ready = pair.ready()

    assert ready["checks"]["answerer"]["ok"]
    assert "answers pause" in ready["checks"]["card"]["message"]
    assert not ready["checks"]["card"]["required"]


def test_a_pause_outlives_its_lease_while_its_holder_lives(pair: Pair) -> None:
    with pair.pause(lease_s=4):
        time.sleep(4.5)
        assert pair.ask().status_code == 503


def test_a_worker_whose_answerer_is_away_goes_on(tmp_path: Path) -> None:
    started = time.monotonic()
    with ServingPause(["http://127.0.0.1:1"], holder="worker-1", lease_s=60):
        pass

    assert time.monotonic() - started < 10
