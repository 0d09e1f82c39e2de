"""An experiment with real processes: trained, evaluated and compared without anybody's help, also across a kill."""

import time
from typing import Any

import pytest

from tests.fixtures.tiny import TINY
from tests.integration.conftest import Product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def wait_for_end(product: Product, experiment_id: str, timeout_s: float = 150) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        experiment = product.client.get(f"/v1/experiments/{experiment_id}")
        if experiment["status"] != "running":
            return experiment
        time.sleep(0.2)
    raise AssertionError(f"timed out; the experiment is {experiment}\n{product.logs()}")


def test_a_ramp_ends_by_itself_though_its_worker_is_killed_in_between(product: Product) -> None:
    training, test = product.upload(), product.upload(8, purpose="evals")
    body = {
        "model": TINY,
        "training_file": training,
        "test_file": test,
        "hyperparameters": {"preset": "quick", "lora_rank": 4, "precision": "fp32", "n_epochs": 60, "learning_rate": 1e-2},
        "vary": {"kind": "ramp", "sizes": [0, 16]},
        "seed": 3,
    }
    experiment = product.client.post("/v1/experiments", body)
    product.wait_step(experiment["arms"][1]["job"], 2)
    product.kill_worker()
    product.wait_status(experiment["arms"][1]["job"], "interrupted", timeout_s=30)
    product.stack.processes["worker"].start()

    ended = wait_for_end(product, experiment["id"])

    assert (ended["status"], [arm["status"] for arm in ended["arms"]]) == ("succeeded", ["succeeded", "succeeded"])
    base, trained = product.client.get(f"/v1/experiments/{experiment['id']}/comparison")["data"]
    assert (base["metrics"]["exact_match"], base["metrics"]["rows"]) == (0.0, 8)
    assert trained["metrics"]["invalid_rate"] == 0.0
    assert trained["versus_baseline"]["rows"] == 8
    assert trained["loss"][-1][0] == 120
    assert b"<svg" in product.client.get_bytes(f"/v1/experiments/{experiment['id']}/report")
