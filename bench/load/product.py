"""The product as `dianda up` starts it, on the tiny model, with one adapter trained and promoted."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.cli.client import ApiClient
from app.cli.stack import Stack, running_stack
from app.db.engine import make_engine
from app.db.migrating import upgrade
from app.db.unit_of_work import read_only
from app.jobs.models import JobEvent
from app.settings import Settings
from bench.load.visits import ALIAS, dataset, job_request
from bench.tiny_product import tiny_product

_ENDED = ("succeeded", "failed", "cancelled")
_FILES_OPEN = 8192


@dataclass(frozen=True)
class LoadedProduct:
    """A running product with something to ask, and the files that jobs and evaluations name."""

    stack: Stack
    client: ApiClient
    settings: Settings
    training_file: str
    test_file: str

    def wait(self, path: str, *, timeout_s: float) -> dict[str, Any]:
        """Returns a job or an evaluation once it has ended.

        Raises:
            TimeoutError: it has not.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = self.client.get(path)
            if found["status"] in _ENDED:
                return found
            time.sleep(0.5)
        raise TimeoutError(f"{path} is {found['status']} after {timeout_s:.0f} s. The logs: {self.stack.logs}")

    def event_times(self, job_id: str) -> list[float]:
        """Returns when each event of a job was written, Unix time, from the database: the API tells whole seconds."""
        engine = make_engine(self.settings.resolved_database_url)
        try:
            with read_only(engine) as session:
                query = select(JobEvent.created_at).where(JobEvent.job_id == job_id).order_by(JobEvent.number)
                return list(session.scalars(query))
        finally:
            engine.dispose()


@contextmanager
def loaded_product(folder: Path, *, database_url: str | None, answerers: int, streams: int) -> Iterator[LoadedProduct]:
    """Starts everything, trains an adapter on 16 rows and promotes it; stops everything when the block ends."""
    # An event stream is a file, in the api as in whoever follows it.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(_FILES_OPEN, hard)), hard))
    settings = tiny_product(
        folder / "data",
        database_url=database_url,
        lease_s=10,
        sweep_interval_s=2,
        max_event_streams=max(1000, 2 * streams),
        answer_log_questions="text",
    )
    upgrade(make_engine(settings.resolved_database_url))
    with running_stack(settings, answerers=answerers) as stack, ApiClient(stack.url) as client:
        client.wait_until_ready(timeout_s=180, on_waiting=lambda parts: None)
        files = {}
        for name, rows, purpose in (("training", 16, "fine-tune"), ("test", 8, "evals")):
            path = folder / f"{name}.json"
            path.write_bytes(dataset(rows))
            files[name] = str(client.upload(path, purpose=purpose)["id"])
        product = LoadedProduct(stack, client, settings, files["training"], files["test"])
        job_id = client.post("/v1/fine_tuning/jobs", job_request(files["training"], "load"))["id"]
        made = product.wait(f"/v1/fine_tuning/jobs/{job_id}", timeout_s=300)
        client.put(f"/v1/aliases/{ALIAS}", {"to": made["fine_tuned_model"]})
        client.post("/answer", {"question": "问题1号怎么办", "model": ALIAS})
        yield product
