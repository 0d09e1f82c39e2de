"""The compose file's own commands, environments and health checks, as processes: from an empty volume to an answer."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from sqlalchemy.engine import make_url

from app.cli.client import ApiClient
from tests.fixtures.compose import ComposedProcesses
from tests.fixtures.db import Databases
from tests.fixtures.tiny import write_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

# What the compose file names when `.env` does not: a tiny model plays its part.
BASE_MODEL = "gemma-2b"
ANSWERS = ("取消方式_1", "开通方式_2|9.9", "业务简介_11", "11.9")
SERVING = ("redis", "api", "answerer", "worker")


@pytest.fixture(scope="module")
def without_weights(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[ComposedProcesses]:
    """The first `docker compose up` on an empty volume."""
    with databases.database("postgresql", migrated=False) as url:
        socket = make_url(url).query["host"]
        assert isinstance(socket, str)
        processes = ComposedProcesses(tmp_path_factory.mktemp("compose"), url, socket)
        try:
            processes.wait_healthy("db")
            migrated = processes.run("migrate")
            assert migrated.returncode == 0, migrated.stderr
            processes.start("redis")
            processes.wait_healthy("redis")
            for service in ("api", "answerer", "worker"):
                processes.start(service)
            processes.wait_healthy("api")
            yield processes
        finally:
            processes.close()


@pytest.fixture(scope="module")
def key(without_weights: ComposedProcesses) -> str:
    """An admin's key, made by the command in the compose file's head."""
    made = without_weights.run("migrate", ["dianda", "key", "create", "operator", "--scope", "admin", "--json"])
    assert made.returncode == 0, made.stderr
    # A line of the log stands before it.
    found, _ = json.JSONDecoder().raw_decode(made.stdout[made.stdout.index("{") :])
    return str(found["secret"])


@pytest.fixture(scope="module")
def first_readiness(without_weights: ComposedProcesses) -> dict[str, Any]:
    """What the product says of itself before there are weights."""
    deadline = time.monotonic() + 60
    while True:
        # 503 while a part is missing; the body says which.
        readiness: dict[str, Any] = httpx2.get(f"{without_weights.url}/health/ready", timeout=10).json()
        if "model store" in str(readiness["checks"]["answerer"]["message"]) or time.monotonic() > deadline:
            return readiness
        time.sleep(0.3)


@pytest.fixture(scope="module")
def deployment(without_weights: ComposedProcesses, first_readiness: dict[str, Any]) -> ComposedProcesses:
    """The product once its weights came from a local folder, by the command in the compose file's head."""
    folder = without_weights.root / "models-in" / BASE_MODEL
    write_tiny_model(folder)
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **tokens}))
    command = ["dianda", "models", "add", BASE_MODEL, f"folder:/models-in/{BASE_MODEL}"]
    added = without_weights.run("models", command, HF_HUB_OFFLINE="1")
    assert added.returncode == 0, added.stdout + added.stderr
    without_weights.wait_healthy("answerer")
    return without_weights


def test_the_first_start_says_what_to_do_about_the_weights(first_readiness: dict[str, Any]) -> None:
    assert first_readiness["status"] == "not_ready"
    for part in ("base_model", "answerer"):
        assert f"docker compose run --rm models dianda models import {BASE_MODEL}" in first_readiness["checks"][part]["message"]
    assert first_readiness["checks"]["database"]["ok"]
    assert first_readiness["checks"]["broker"]["ok"]


def test_an_import_without_network_or_files_says_what_to_do(
    without_weights: ComposedProcesses, first_readiness: dict[str, Any]
) -> None:
    done = without_weights.run("models", ["dianda", "models", "add", "other", "folder:/models-in/other"], HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "Put the model's files there" in " ".join(done.stderr.split())


def test_the_weights_are_found_without_a_restart(deployment: ComposedProcesses) -> None:
    assert httpx2.get(f"{deployment.url}/health/ready", timeout=10).json()["status"] == "ready"


def test_the_api_asks_for_a_key(deployment: ComposedProcesses) -> None:
    assert httpx2.get(f"{deployment.url}/v1/files", timeout=10).status_code == 401


@pytest.mark.parametrize("service", ["db", "redis", "api", "answerer", "worker"])
def test_a_service_s_health_check_passes(deployment: ComposedProcesses, service: str) -> None:
    deployment.wait_healthy(service, timeout_s=30)


def test_an_uploaded_file_becomes_an_adapter_that_answers(deployment: ComposedProcesses, key: str) -> None:
    rows = [{"instruction": f"问题{row}号怎么办", "input": "", "output": ANSWERS[row % len(ANSWERS)]} for row in range(16)]
    file = deployment.root / "rows.json"
    file.write_text(json.dumps(rows, ensure_ascii=False))
    asked = {"preset": "quick", "n_epochs": 3, "lora_rank": 4, "precision": "fp32"}
    with ApiClient(deployment.url, key=key) as client:
        body = {
            "model": BASE_MODEL,
            "training_file": client.upload(file, purpose="fine-tune")["id"],
            "suffix": "composed",
            "method": {"type": "supervised", "supervised": {"hyperparameters": asked}},
        }
        job = client.post("/v1/fine_tuning/jobs", body)
        deadline = time.monotonic() + 120
        while job["status"] not in ("succeeded", "failed"):
            assert time.monotonic() < deadline, (job, deployment.log("worker"))
            time.sleep(0.3)
            job = client.get(f"/v1/fine_tuning/jobs/{job['id']}")
        assert job["status"] == "succeeded", job
        client.put("/v1/aliases/composed@production", {"to": "composed:1"})
        answer = client.post("/answer", {"question": "问题0号怎么办", "model": "composed@production"})
    assert answer["adapter"] == "composed:1"
    assert set(answer["answer"].split("|")) <= {code for codes in ANSWERS for code in codes.split("|")}


def test_nothing_is_written_outside_volumes_and_tmp(deployment: ComposedProcesses) -> None:
    assert list((deployment.root / "srv").rglob("*")) == []
    assert list((deployment.root / "home").rglob("*")) == []


@pytest.mark.parametrize("service", ["worker", "api", "answerer", "redis"])
def test_a_service_ends_by_its_stop_signal_within_its_grace(deployment: ComposedProcesses, service: str) -> None:
    deployment.stop(service)
    assert service not in deployment.running
