"""The `dianda` command against the API under a real server; a thread plays the worker."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.db.unit_of_work import unit_of_work
from app.evaluations import service as evaluations
from app.jobs import events, repository
from app.jobs import service as jobs
from app.jobs.leases import Lease
from app.ml.evaluated_rows import EvaluatedRow
from tests.fixtures.api import Api
from tests.fixtures.queue import claim


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its only line of stdout."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def lines(self) -> list[Any]:
        """Each line of stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Dianda:
    """The command, told where the API is."""

    url: str

    def __call__(self, *words: str, stdin: str | None = None) -> Ran:
        """Runs the command."""
        result = CliRunner().invoke(cli, [*words, "--url", self.url], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)


@contextmanager
def worker(api: Api, work: Callable[[Lease], None]) -> Iterator[None]:
    """Claims jobs as they come and does `work` on each."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            lease = claim(api.engine)
            if lease is None:
                time.sleep(0.02)
            else:
                work(lease)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(10)


def train(api: Api, lease: Lease) -> None:
    """Trains in no time: two steps, and an adapter."""
    for step, loss in ((1, 2.0), (2, 0.5)):
        with unit_of_work(api.engine) as session:
            progress = {"step": step, "total_steps": 2, "loss": loss, "samples_per_s": 8.0, "seconds_remaining": 2.0 - step}
            repository.update_fenced(session, lease.job_id, lease.fence, {"progress": progress})
            events.append(session, lease.job_id, f"Step {step}/2: loss {loss:.4f}", type="metrics", data=progress)
    with unit_of_work(api.engine) as session:
        metrics = {"train_loss": 0.5, "train_seconds": 3.0, "train_samples_per_s": 8.0}
        jobs.finish_finetune(
            session, lease, checksum="c" * 64, blob_key="adapters/c", metrics=metrics, trained_tokens=1, result_file_ids={}
        )


def fail(api: Api, lease: Lease) -> None:
    """Finds that the work cannot be done."""
    with unit_of_work(api.engine) as session:
        jobs.fail(session, lease, code="nothing_to_train", message="No row fits. Raise cutoff_len.", param="cutoff_len")


def evaluate(api: Api, lease: Lease, right: dict[str | None, int], *, rows: int = 40) -> None:
    """Answers `rows` rows, the first ones rightly: so many as `right` says of the adapter."""
    with unit_of_work(api.engine) as session:
        adapter = repository.get(session, lease.job_id, kind=repository.EVALUATION).adapter_id
        count = right[adapter]
        answered = [
            EvaluatedRow(
                row=row,
                question=f"[第{row}问]怎么取消",
                expected=("取消方式_1",),
                given=("取消方式_1" if row <= count else "取消方式_2",),
                code_confidences=(0.75,),
                confidence=0.75,
                in_vocabulary=True,
                fallback=None,
                latency_ms=4.5,
                passes=2,
            )
            for row in range(1, rows + 1)
        ]
        assert evaluations.keep_rows(session, lease, answered)
        metrics = {"rows": rows, "exact_match": count / rows, "intervals": {"exact_match": [0.1, 0.9]}, "confusions": []}
        assert evaluations.finish(session, lease, metrics=metrics)


@pytest.fixture(scope="module")
def dialect() -> str:
    """One database: this is about the client."""
    return "sqlite"
