"""One card for both: answers pause while a real job trains, and come back."""

import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.fixtures.tiny import TINY
from tests.integration.conftest import Product, start_product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def pausing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    yield from start_product(tmp_path_factory.mktemp("pausing"), card_policy="pause_serving")


def ask(product: Product) -> httpx2.Response:
    return httpx2.post(f"{product.stack.url}/answer", json={"question": "怎么取消", "model": TINY}, timeout=30)


def test_answers_pause_while_a_job_trains_and_come_back_after_it(pausing: Product) -> None:
    assert ask(pausing).status_code == 200
    job_id = pausing.start_job(pausing.upload(), "pause", n_epochs=1000)
    pausing.wait_step(job_id, 1)

    refused = ask(pausing)
    ready = pausing.client.get("/health/ready")
    pausing.client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel", {})
    pausing.wait_status(job_id, "cancelled")

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "serving_paused"
    assert refused.json()["error"]["details"]["job_id"] == job_id
    assert int(refused.headers["retry-after"]) >= 1
    assert not ready["checks"]["card"]["ok"]
    deadline = time.monotonic() + 60
    while ask(pausing).status_code != 200:
        assert time.monotonic() < deadline, pausing.logs()
        time.sleep(0.2)
