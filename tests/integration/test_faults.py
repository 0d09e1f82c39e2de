"""What happens to a job when processes die, bells get lost, and users change their minds."""

import os
import signal
import time

import psutil
import pytest
import redis

from app.cli.client import ApiError
from app.db.engine import make_engine
from app.db.unit_of_work import read_only
from app.jobs.models import Job
from app.jobs.queue import LOOK_TASK, QUEUE, make_celery
from tests.fixtures.tiny import TINY
from tests.integration.conftest import Product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

# 1,600 steps of some 10 ms: long enough to be hit in the middle, short enough to wait for.
LONG = {"n_epochs": 800, "save_steps": 100}


def _row(product: Product, job_id: str) -> Job:
    with read_only(make_engine(product.stack.settings.resolved_database_url)) as session:
        return session.get_one(Job, job_id)


def _losses(product: Product, job_id: str) -> list[str]:
    file_id = product.job(job_id)["result_file_names"]["loss.csv"]
    return product.client.get_bytes(f"/v1/files/{file_id}/content").decode().splitlines()


def test_a_killed_training_process_is_interrupted_resumes_from_its_checkpoint_and_ends_the_same(product: Product) -> None:
    file_id = product.upload()
    calm = product.start_job(file_id, "calm", **LONG)
    product.wait_status(calm, "succeeded")
    job_id = product.start_job(file_id, "killed", **LONG)
    product.wait(job_id, lambda job: len(product.client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"]) > 0)
    product.kill_child(job_id)
    job = product.wait_status(job_id, "succeeded", "failed")
    assert job["status"] == "succeeded"
    story = product.messages(job_id)
    assert any("Interrupted: the training process was ended by signal SIGKILL" in line for line in story)
    assert sum(line.startswith("Claimed") for line in story) == 2
    assert product.job(job_id)["fine_tuned_model"] == "killed:1"
    # CPU and fp32: as if nothing had happened, step for step.
    assert _losses(product, job_id) == _losses(product, calm)


def test_a_killed_worker_takes_its_training_process_along_and_the_job_resumes_elsewhere(product: Product) -> None:
    job_id = product.start_job(product.upload(), "worker-killed", **LONG)
    product.wait_step(job_id, 2)
    (child,) = product.children(job_id)
    killed = time.monotonic()
    product.kill_worker()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running(), "the training process outlived its worker"
    assert time.monotonic() - killed < 20
    product.wait_status(job_id, "interrupted", timeout_s=30)
    product.stack.processes["worker"].start()
    product.wait_status(job_id, "running", timeout_s=30)
    assert time.monotonic() - killed < 45
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"


def test_a_stopped_worker_checkpoints_and_hands_its_job_over(product: Product) -> None:
    job_id = product.start_job(product.upload(), "handed-over", n_epochs=800, save_steps=100)
    step = product.wait_step(job_id, 2)["progress"]["step"]
    worker = product.stack.processes["worker"]
    worker.stop(timeout_s=60)
    assert worker.exit_code == 0
    assert product.job(job_id)["status"] == "interrupted"
    worker.start()
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"
    checkpoints = product.client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"]
    assert checkpoints and step > 0
    assert "Interrupted: its worker was stopped. It resumes by itself." in product.messages(job_id)


def test_a_bell_heard_many_times_trains_once(product: Product) -> None:
    job_id = product.start_job(product.upload(), "rung-often", n_epochs=2)
    socket_path = product.stack.settings.redis_socket
    celery = make_celery(f"redis+socket://{socket_path}")
    for _ in range(20):
        celery.send_task(LOOK_TASK, args=[job_id], queue=QUEUE)
    product.wait_status(job_id, "succeeded")
    time.sleep(2)
    row = _row(product, job_id)
    assert row.fence == 1
    assert row.adapter_id == "rung-often:1"
    names = [model["id"] for model in product.client.get("/v1/models")["data"]]
    assert [name for name in names if name.startswith("rung-often")] == ["rung-often:1"]


def test_a_lost_bell_is_rung_again_by_the_api(product: Product) -> None:
    worker = product.stack.processes["worker"]
    worker.stop(timeout_s=60)
    job_id = product.start_job(product.upload(), "bell-lost", n_epochs=1)
    bells = redis.Redis(unix_socket_path=str(product.stack.settings.redis_socket))
    bells.flushall()
    worker.start()
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"
    assert _row(product, job_id).fence == 1


def test_a_job_is_accepted_while_the_broker_is_away_and_runs_once_it_is_back(product: Product) -> None:
    broker = product.stack.processes["redis"]
    assert broker.process is not None
    os.kill(broker.process.pid, signal.SIGKILL)
    broker.process.wait()
    job_id = product.start_job(product.upload(), "no-broker", n_epochs=1)
    assert product.job(job_id)["status"] == "queued"
    broker.start()
    assert product.wait_status(job_id, "succeeded", "failed", timeout_s=120)["status"] == "succeeded"


def test_a_cancelled_job_is_gone_with_its_process_and_leaves_no_adapter(product: Product) -> None:
    job_id = product.start_job(product.upload(), "cancelled", n_epochs=900)
    product.wait_step(job_id, 2)
    asked = time.monotonic()
    product.client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    job = product.wait_status(job_id, "cancelled", "succeeded", "failed")
    assert job["status"] == "cancelled"
    assert time.monotonic() - asked < 12
    assert product.children(job_id) == []
    assert job["fine_tuned_model"] is None


def test_a_paused_job_stops_and_resumes_where_it_was(product: Product) -> None:
    job_id = product.start_job(product.upload(), "paused", n_epochs=800, save_steps=100_000)
    product.wait_step(job_id, 2)
    product.client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    product.wait_status(job_id, "paused")
    assert product.children(job_id) == []
    (checkpoint, *_) = product.client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"]
    product.client.post(f"/v1/fine_tuning/jobs/{job_id}/resume")
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"
    first_steps = [event for event in _metrics(product, job_id) if event["step"] == checkpoint["step_number"] + 1]
    assert len(first_steps) == 1, "the resumed run repeats or skips a step"


def test_an_answerer_that_dies_while_it_takes_an_adapter_in_answers_once_it_is_back(product: Product) -> None:
    job_id = product.start_job(product.upload(), "taken-in", n_epochs=1)
    product.wait_status(job_id, "succeeded")
    answerer = product.stack.processes["answerer"]
    calm = answerer.environment
    answerer.stop(timeout_s=30)
    answerer.environment = {**calm, "DIANDA_FAULT_POINT": "before_adapter_loaded:kill"}
    answerer.start()
    product.client.wait_until_ready(timeout_s=60, on_waiting=lambda parts: None)
    with pytest.raises(ApiError):
        product.client.post("/answer", {"question": "怎么办", "model": "taken-in:1"})
    assert answerer.process is not None
    assert answerer.process.wait(timeout=10) == -signal.SIGKILL
    answerer.environment = calm
    answerer.start()
    product.client.wait_until_ready(timeout_s=60, on_waiting=lambda parts: None)
    assert product.client.post("/answer", {"question": "怎么办", "model": "taken-in:1"})["adapter"] == "taken-in:1"


def _metrics(product: Product, job_id: str) -> list[dict[str, int]]:
    events = product.client.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=100")["data"]
    return [event["data"] for event in events if event["type"] == "metrics"]


def test_a_job_that_dies_three_times_without_a_checkpoint_has_failed(product: Product) -> None:
    job_id = product.start_job(product.upload(), "dies", n_epochs=900, save_steps=100000)
    for attempt in (1, 2, 3):
        product.wait(job_id, lambda job, attempt=attempt: job["attempts"] == attempt and bool(product.children(job_id)))  # type: ignore[misc]
        product.kill_child(job_id)
    job = product.wait_status(job_id, "failed")
    assert job["error"]["code"] == "worker_lost"
    assert job["fine_tuned_model"] is None


def test_a_broken_newest_checkpoint_is_passed_over_for_an_older_one(product: Product) -> None:
    job_id = product.start_job(product.upload(), "broken-checkpoint", **LONG)
    product.wait(job_id, lambda job: len(product.client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"]) >= 2)
    product.client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    product.wait_status(job_id, "paused")
    folders = (product.stack.settings.data_dir / "blobs" / "checkpoints" / job_id).iterdir()
    newest = max(folders, key=lambda folder: int(folder.name.partition("-")[0]))
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    product.client.post(f"/v1/fine_tuning/jobs/{job_id}/resume")
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"
    assert any("is broken; using an older one" in line for line in product.messages(job_id))


def test_a_job_paused_again_and_again_between_evaluations_ends_like_one_that_was_not(product: Product) -> None:
    training, held_out = product.upload(), product.upload(12, purpose="evals")

    def start(suffix: str) -> str:
        asked = {"preset": "quick", "lora_rank": 4, "precision": "fp32", "learning_rate": 1e-3, "n_epochs": 1000}
        body = {"model": TINY, "training_file": training, "validation_file": held_out, "suffix": suffix, "seed": 5}
        method = {"type": "supervised", "supervised": {"hyperparameters": asked}}
        return str(product.client.post("/v1/fine_tuning/jobs", {**body, "method": method})["id"])

    calm = start("calm-scored")
    product.wait_status(calm, "succeeded", "failed")
    job_id = start("paused-scored")
    for step in (2, 100):
        product.wait_step(job_id, step)
        product.client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
        product.wait_status(job_id, "paused")
        product.client.post(f"/v1/fine_tuning/jobs/{job_id}/resume")
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"
    assert _losses(product, job_id) == _losses(product, calm)
    assert product.job(job_id)["metrics"]["by_epoch"] == product.job(calm)["metrics"]["by_epoch"]
