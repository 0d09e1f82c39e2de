"""Dies in every moment in which a worker takes a checkpoint over: `python -m tests.worker.dying_keeps CASES kill|power_cut`.

Steps 1, 3 and 4 are kept before (1 is the best); the one taken over is 5, and 3 goes. Prints the number of moments.
"""

import shutil
import sys
from pathlib import Path

from app.db.engine import make_engine
from app.db.migrating import upgrade
from app.durable import seal_folder
from app.jobs.leases import Lease
from tests.fixtures.dying import die_everywhere
from tests.fixtures.queue import insert_job, must_claim
from tests.fixtures.worker import worker_context
from worker.context import WorkerContext
from worker.finetune import _keep_checkpoint
from worker.messages import CheckpointWritten

JOB_ID = "ftjob-dies"
LEASE = Lease(JOB_ID, 1)


def context_in(folder: Path) -> WorkerContext:
    """Opens the database and the blobs of a case."""
    return worker_context(make_engine(f"sqlite:///{folder / 'dianda.db'}"), folder, keep_checkpoints=2)


def written(folder: Path, step: int) -> CheckpointWritten:
    """Makes a checkpoint as a child leaves it."""
    made = folder / "work" / f"checkpoint-{step}"
    made.mkdir(parents=True, exist_ok=True)
    (made / "state.json").write_text(str(step))
    return CheckpointWritten(str(made), step, seal_folder(made), {"step": step, "exact_match": 1 / step})


def main(cases: Path, *, is_power_cut: bool) -> int:
    """Returns the number of moments."""
    start = cases.with_name(f"{cases.name}-start")
    start.mkdir(parents=True)
    context = context_in(start)
    upgrade(context.engine)
    insert_job(context.engine, id=JOB_ID)
    assert must_claim(context.engine) == LEASE
    for step in (1, 3, 4):
        _keep_checkpoint(context, LEASE, written(start, step))
    context.engine.dispose()

    def prepare(number: int) -> Path:
        case = cases / f"{number:03}"
        shutil.copytree(start, case)
        written(case, 5)
        return case

    def act(case: Path) -> None:
        made = case / "work" / "checkpoint-5"
        _keep_checkpoint(
            context_in(case), LEASE, CheckpointWritten(str(made), 5, seal_folder(made), {"step": 5, "exact_match": 0.1})
        )

    return len(die_everywhere(prepare, act, is_power_cut=is_power_cut))


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), is_power_cut=sys.argv[2] == "power_cut"))
