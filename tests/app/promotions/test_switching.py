"""Aliases move under live answers."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine

from app.answers.backends.answerer import RefusedByAnswerer
from app.main import create_app
from tests.app.promotions.naming_backend import NamingBackend, away
from tests.fixtures.api import make_settings, serving, write_store_of_zeros
from tests.fixtures.db import Databases
from tests.fixtures.queue import RecordingDoorbell, insert_adapter

ALIAS = "telecom@production"
CHECKSUMS = {"telecom:1": "a" * 64, "telecom:2": "b" * 64}
_ASKERS, _MOVES = 6, 8


class Product:
    """The api under a real uvicorn, over a backend that names adapters."""

    def __init__(self, url: str, engine: Engine, backend: NamingBackend) -> None:
        self.http = httpx2.Client(base_url=url, timeout=30)
        self.url = url
        self.engine = engine
        self.backend = backend

    def put(self, **fields: Any) -> httpx2.Response:
        return self.http.put(f"/v1/aliases/{ALIAS}", json=fields)


@pytest.fixture
def product(tmp_path: Path, databases: Databases) -> Iterator[Product]:
    with databases.database("sqlite") as database_url:
        settings = make_settings(tmp_path, database_url)
        write_store_of_zeros(settings.models_dir)
        backend = NamingBackend(load_s=0.05, answer_s=0.002)
        app = create_app(settings, answer_backend=backend, doorbell=RecordingDoorbell())
        with serving(app) as url:
            for checksum in CHECKSUMS.values():
                insert_adapter(app.state.engine, checksum=checksum)
            product = Product(url, app.state.engine, backend)
            yield product
            product.http.close()


def test_under_load_no_answer_is_lost_none_is_mixed_and_all_after_the_reply_are_the_new_adapters(product: Product) -> None:
    product.put(to="telecom:1")
    stop = threading.Event()
    seen: list[tuple[float, float, int, dict[str, Any]]] = []

    def ask_on() -> None:
        with httpx2.Client(base_url=product.url, timeout=30) as http:
            while not stop.is_set():
                asked = time.monotonic()
                response = http.post("/answer/batch", json={"questions": ["甲", "乙"], "model": ALIAS})
                seen.append((asked, time.monotonic(), response.status_code, response.json()))

    # When each promotion was asked for and replied to, and what it promoted; the first is done before anybody asks.
    moves = [(0.0, time.monotonic(), "telecom:1")]
    askers = [threading.Thread(target=ask_on) for _ in range(_ASKERS)]
    for asker in askers:
        asker.start()
    for number in range(_MOVES):
        target = "telecom:2" if number % 2 == 0 else "telecom:1"
        asked = time.monotonic()
        assert product.put(to=target).status_code == 200
        moves.append((asked, time.monotonic(), target))
        time.sleep(0.05)
    stop.set()
    for asker in askers:
        asker.join()

    assert len(seen) > 10 * _MOVES
    for asked, answered, status, body in seen:
        assert status == 200, body
        adapters = {answer["adapter"] for answer in body["data"]}
        assert len(adapters) == 1, "both questions of a request have one adapter"
        (adapter,) = adapters
        assert all(answer["answer"] == f"版本_{CHECKSUMS[adapter]}" for answer in body["data"]), "it is named by what it said"
        before = max((move for move in moves if move[1] <= asked), key=lambda move: move[1])
        meanwhile = {target for began, replied, target in moves if began <= answered and replied > asked}
        assert adapter in {before[2]} | meanwhile, "an answer asked for after the reply comes from the promoted adapter"
    assert all(questions == ("你好",) for questions in product.backend.cold), "no asker waited for an adapter to load"


def test_an_answerer_that_is_away_stops_no_promotion(product: Product) -> None:
    product.backend.errors["a" * 64] = away()

    body = product.put(to="telecom:1").json()

    assert (body["model"], body["promotion"]["loaded"]) == ("telecom:1", False)


def test_an_adapter_that_the_answerer_refuses_is_not_promoted(product: Product) -> None:
    product.put(to="telecom:1")
    product.backend.errors["b" * 64] = RefusedByAnswerer("It is of another base model.")

    response = product.put(to="telecom:2")

    assert (response.status_code, response.json()["error"]["code"]) == (409, "not_servable")
    assert product.http.get(f"/v1/aliases/{ALIAS}").json()["model"] == "telecom:1"


def test_an_adapter_that_the_answerer_refuses_is_promoted_by_force(product: Product) -> None:
    product.backend.errors["a" * 64] = RefusedByAnswerer("It is of another base model.")

    assert product.put(to="telecom:1", force=True, reason="the answerer changes next").status_code == 200
