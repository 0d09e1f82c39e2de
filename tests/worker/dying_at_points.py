"""A job's way through a worker and the api, without HTTP and torch, in a process that a fault point ends or freezes.

`DIANDA_FAULT_POINT=… python -m tests.worker.dying_at_points FOLDER`; every point of the worker and of the api's queue is reached.
"""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.db.engine import make_engine
from app.db.unit_of_work import unit_of_work
from app.durable import seal_folder
from app.jobs import leases, repository
from app.jobs import service as jobs
from app.jobs.leases import Lease
from app.jobs.models import Job
from tests.fixtures.worker import worker_context
from worker import finetune, heartbeat, tasks
from worker.assignment import OUTPUT
from worker.context import WorkerContext
from worker.messages import CheckpointWritten, Finished

JOB_ID = "ftjob-points"
METRICS = {"train_loss": 0.5}


class FileBell:
    """Leaves a file where a bell was rung."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def ring(self, job_id: str) -> None:
        self._place.touch()

    def waiting(self) -> int | None:
        return 0


def context_in(folder: Path, *, owner: str = "worker-1") -> WorkerContext:
    """Opens the database and the blobs in a folder; the database must be migrated."""
    return worker_context(make_engine(f"sqlite:///{folder / 'dianda.db'}"), folder, owner=owner, lease_s=2, keep_checkpoints=2)


def queue(folder: Path) -> None:
    """Queues the job as the api does."""
    job = Job(
        id=JOB_ID,
        kind=repository.FINETUNE,
        base_model="tiny-gemma",
        spec={},
        hyperparameters={},
        suffix="points",
        seed=0,
        user_metadata={},
    )
    with unit_of_work(context_in(folder).engine) as session:
        jobs._queue(session, job, bell=FileBell(folder / "rung"), max_unfinished=9)


def work(folder: Path, *, owner: str = "worker-1") -> int:
    """Looks for work as a worker does; in place of a training process stands what one would leave."""
    context = context_in(folder, owner=owner)
    recipes: dict[str, Callable[[WorkerContext, Lease], None]] = {repository.FINETUNE: _train}
    tasks._RECIPES, before = recipes, tasks._RECIPES
    try:
        return tasks.look(context)
    finally:
        tasks._RECIPES = before


def _train(context: WorkerContext, lease: Lease) -> None:
    made = context.work_dir / f"{lease.job_id}-{lease.fence}"
    (made / OUTPUT / "adapter").mkdir(parents=True)
    (made / "checkpoint").mkdir()
    (made / "checkpoint" / "state.json").write_text("1")
    for name in ("loss.csv", "loss.png", "adapter/adapter_model.safetensors"):
        (made / OUTPUT / name).write_text(name)
    beaten = threading.Event()

    def renew(*arguments: Any, **more: Any) -> Any:
        beaten.set()
        return leases.renew(*arguments, **more)

    heartbeat.renew = renew  # type: ignore[assignment]
    with heartbeat.Heartbeat(context.engine, lease, lease_s=2):
        # Between two beats: whoever freezes, in a beat or beside it, leaves no transaction open.
        beaten.wait()
        time.sleep(0.1)
        checksum = seal_folder(made / "checkpoint")
        finetune._keep_checkpoint(context, lease, CheckpointWritten(str(made / "checkpoint"), 1, checksum, {"step": 1}))
        result: dict[str, Any] = {
            "checksum": seal_folder(made / OUTPUT / "adapter"),
            "metrics": METRICS,
            "trained_tokens": 7,
        }
        finetune._publish(context, lease, made / OUTPUT, Finished(result))


if __name__ == "__main__":
    queue(Path(sys.argv[1]))
    work(Path(sys.argv[1]))
