"""The main job through the official `openai` client, against the running product."""

import time
from pathlib import Path

import pytest
from openai import OpenAI

from tests.fixtures.tiny import TINY
from tests.integration.conftest import Product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]


def test_the_openai_client_uploads_tunes_watches_and_chats(product: Product, tmp_path: Path) -> None:
    product.upload()
    client = OpenAI(base_url=f"{product.client.url}/v1", api_key="none")
    with (product.folder / "rows-16.json").open("rb") as rows:
        file = client.files.create(file=rows, purpose="fine-tune")
    assert client.files.wait_for_processing(file.id, poll_interval=0.1).status == "processed"
    hyperparameters = {"preset": "quick", "n_epochs": 20, "lora_rank": 4, "precision": "fp32", "save_steps": 10}
    job = client.fine_tuning.jobs.create(
        model=TINY,
        training_file=file.id,
        suffix="by-openai",
        seed=3,
        extra_body={"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}},
    )
    deadline = time.monotonic() + 90
    while job.status not in ("succeeded", "failed", "cancelled") and time.monotonic() < deadline:
        time.sleep(0.3)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.fine_tuned_model) == ("succeeded", "by-openai:1")
    # Pages of two, followed by the client itself.
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert len(events) > 4
    assert events[-1].message == "Created and queued."
    assert len({event.id for event in events}) == len(events)
    steps = [checkpoint.step_number for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]
    assert steps == sorted(steps, reverse=True) and len(steps) == 2
    assert client.models.retrieve("by-openai:1").id == "by-openai:1"
    chat = client.chat.completions.create(model="by-openai:1", messages=[{"role": "user", "content": "问题0号怎么办"}])
    assert chat.choices[0].message.content


def test_a_dry_run_knows_what_the_job_then_needs(product: Product) -> None:
    file_id = product.upload()
    asked = {"preset": "quick", "lora_rank": 4, "precision": "fp32", "n_epochs": 2}
    body = {
        "model": TINY,
        "training_file": file_id,
        "suffix": "dry",
        "method": {"type": "supervised", "supervised": {"hyperparameters": asked}},
    }
    before = len(product.client.get("/v1/fine_tuning/jobs?limit=100")["data"])
    estimate = product.client.post("/v1/fine_tuning/jobs?dry_run=true", body)
    assert len(product.client.get("/v1/fine_tuning/jobs?limit=100")["data"]) == before
    job = product.wait_status(product.client.post("/v1/fine_tuning/jobs", body)["id"], "succeeded", "failed")
    assert estimate["steps"] == job["progress"]["total_steps"]
    assert estimate["trainable_parameters"] == job["metrics"]["trainable_parameters"]
    assert estimate["rows"] == 16
    assert {serving["engine"]: serving["can_serve"] for serving in estimate["serving"]}["Dianda's answerer"]
