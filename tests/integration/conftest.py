"""The product as processes: real redis-server, api, answerer, worker and training children, on the tiny Gemma."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cli.client import ApiClient
from app.cli.stack import Stack, running_stack
from app.db.engine import make_engine
from app.db.migrating import upgrade
from bench.tiny_product import tiny_product
from tests.fixtures.tiny import TINY

ANSWERS = ("取消方式_1", "开通方式_2|9.9", "业务简介_11", "11.9")


@dataclass
class Product:
    """A running product and what tests do with it."""

    stack: Stack
    client: ApiClient
    folder: Path

    def upload(self, rows: int = 16, purpose: str = "fine-tune") -> str:
        """Uploads a small dataset and returns its id."""
        path = self.folder / f"rows-{rows}.json"
        data = [{"instruction": f"问题{row}号怎么办", "input": "", "output": ANSWERS[row % len(ANSWERS)]} for row in range(rows)]
        path.write_text(json.dumps(data, ensure_ascii=False))
        return str(self.client.upload(path, purpose=purpose)["id"])

    def start_job(self, file_id: str, suffix: str, **hyperparameters: Any) -> str:
        """Posts a job on the tiny model; 16 rows of batch 8 are two steps an epoch."""
        asked = {"preset": "quick", "lora_rank": 4, "precision": "fp32", "learning_rate": 1e-3, **hyperparameters}
        body = {
            "model": TINY,
            "training_file": file_id,
            "suffix": suffix,
            "seed": 5,
            "method": {"type": "supervised", "supervised": {"hyperparameters": asked}},
        }
        return str(self.client.post("/v1/fine_tuning/jobs", body)["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Returns a job."""
        return self.client.get(f"/v1/fine_tuning/jobs/{job_id}")

    def wait(self, job_id: str, until: Callable[[dict[str, Any]], bool], timeout_s: float = 90) -> dict[str, Any]:
        """Returns the job once `until` holds."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if until(job):
                return job
            time.sleep(0.1)
        raise AssertionError(f"timed out; the job is {job}\n{self.logs()}")

    def wait_evaluation(self, evaluation_id: str, timeout_s: float = 90) -> dict[str, Any]:
        """Returns an evaluation once it has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            evaluation = self.client.get(f"/v1/evaluations/{evaluation_id}")
            if evaluation["status"] in ("succeeded", "failed", "cancelled"):
                return evaluation
            time.sleep(0.1)
        raise AssertionError(f"timed out; the evaluation is {evaluation}\n{self.logs()}")

    def wait_status(self, job_id: str, *statuses: str, timeout_s: float = 90) -> dict[str, Any]:
        """Returns the job once its status is one of these."""
        return self.wait(job_id, lambda job: job["status"] in statuses, timeout_s)

    def wait_step(self, job_id: str, step: int) -> dict[str, Any]:
        """Returns the running job once it has told of so many steps."""
        return self.wait(job_id, lambda job: (job["progress"] or {}).get("step", 0) >= step)

    def messages(self, job_id: str) -> list[str]:
        """Returns the job's story, oldest first, without metrics."""
        events, after = [], ""
        while True:
            page = self.client.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=100{after}")
            events += page["data"]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        numbers = [event["number"] for event in events]
        assert numbers == list(range(len(events), 0, -1)), "events have gaps"
        return [event["message"] for event in reversed(events) if event["type"] == "message"]

    def children(self, job_id: str) -> list[psutil.Process]:
        """Returns the training processes of a job, wherever they hang in the tree."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "worker.child" in command and any(job_id in part for part in command):
                found.append(process)
        return found

    def kill_child(self, job_id: str) -> None:
        """Kills the training process of a running job."""
        (child,) = self.children(job_id)
        child.send_signal(signal.SIGKILL)

    def kill_worker(self) -> None:
        """Kills the worker's main process, as the kernel or an operator would."""
        process = self.stack.processes["worker"].process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def logs(self) -> str:
        """Returns the end of every log."""
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in self.stack.logs.glob("*.log"))


def start_product(folder: Path, database_url: str | None = None, **fields: Any) -> Iterator[Product]:
    """Runs the product in a folder until the test is over; further settings by name."""
    settings = tiny_product(folder / "data", database_url=database_url, lease_s=6, sweep_interval_s=1, stop_grace_s=30, **fields)
    upgrade(make_engine(settings.resolved_database_url))
    with running_stack(settings) as stack, ApiClient(stack.url) as client:
        product = Product(stack, client, folder)
        try:
            client.wait_until_ready(timeout_s=90, on_waiting=lambda parts: None)
        except Exception as error:
            raise AssertionError(product.logs()) from error
        yield product


@pytest.fixture(scope="package")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The embedded profile: SQLite and redis on a private socket."""
    yield from start_product(tmp_path_factory.mktemp("product"))
