"""Which checkpoints a worker keeps, and what becomes of the others' files."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.db.unit_of_work import read_only, unit_of_work
from app.durable import seal_folder
from app.jobs import leases, repository
from app.jobs.leases import Lease
from tests.fixtures.queue import insert_job, must_claim
from tests.fixtures.tiny import make_tiny_store
from tests.fixtures.worker import worker_context
from worker.context import WorkerContext
from worker.finetune import _keep_checkpoint, _newest_whole_checkpoint
from worker.messages import CheckpointWritten


@pytest.fixture
def context(engine: Engine, tmp_path: Path) -> WorkerContext:
    return worker_context(engine, tmp_path, store=make_tiny_store(tmp_path / "models"), work_dir=tmp_path, keep_checkpoints=2)


def write(context: WorkerContext, lease: Lease, step: int, **metrics: Any) -> None:
    folder = context.work_dir / f"made-{lease.fence}-{step}"
    folder.mkdir()
    (folder / "state.json").write_text(f"{step} of attempt {lease.fence}")
    checksum = seal_folder(folder)
    _keep_checkpoint(context, lease, CheckpointWritten(str(folder), step, checksum, {"step": step, **metrics}))


def kept_steps(context: WorkerContext, job_id: str) -> list[int]:
    with read_only(context.engine) as session:
        return [checkpoint.step for checkpoint in repository.checkpoints_newest_first(session, job_id)]


def stored(context: WorkerContext, job_id: str) -> list[str]:
    return sorted(path.name for path in (context.work_dir / "blobs" / "checkpoints" / job_id).iterdir())


def test_without_scores_the_newest_are_kept(context: WorkerContext) -> None:
    job_id = insert_job(context.engine)
    lease = must_claim(context.engine)
    for step in (1, 2, 3, 4):
        write(context, lease, step)
    assert kept_steps(context, job_id) == [4, 3]
    assert stored(context, job_id) == ["3-1", "4-1"]


def test_the_best_is_kept_beside_the_newest(context: WorkerContext) -> None:
    job_id = insert_job(context.engine)
    lease = must_claim(context.engine)
    kept = []
    for step, exact_match in enumerate([0.1, 0.9, 0.3, 0.3, 0.9, 0.95, 0.2, 0.1, 0.1], start=1):
        write(context, lease, step, exact_match=exact_match)
        kept.append(kept_steps(context, job_id))
    assert kept == [[1], [2, 1], [3, 2], [4, 3, 2], [5, 4, 2], [6, 5], [7, 6], [8, 7, 6], [9, 8, 6]]
    assert stored(context, job_id) == ["6-1", "8-1", "9-1"]


def test_the_jobs_own_metric_tells_the_best(context: WorkerContext) -> None:
    job_id = insert_job(context.engine, spec={"metric_for_best_model": "eval_loss"})
    lease = must_claim(context.engine)
    for step, loss in enumerate([0.5, 0.2, 0.6, 0.7, 0.8], start=1):
        write(context, lease, step, exact_match=step / 10, eval_loss=loss)
    assert kept_steps(context, job_id) == [5, 4, 2]


def test_a_step_that_is_written_again_leaves_no_files_of_the_attempt_before(context: WorkerContext) -> None:
    job_id = insert_job(context.engine)
    first = must_claim(context.engine)
    write(context, first, 3)
    with unit_of_work(context.engine) as session:
        leases.interrupt(session, first, reason="it was lost.")
    write(context, must_claim(context.engine), 3)
    assert stored(context, job_id) == ["3-2"]


def test_a_worker_that_lost_its_lease_leaves_nothing(context: WorkerContext) -> None:
    job_id = insert_job(context.engine)
    stale = must_claim(context.engine)
    with unit_of_work(context.engine) as session:
        leases.interrupt(session, stale, reason="it was lost.")
    write(context, must_claim(context.engine), 3)
    write(context, stale, 4)
    assert (kept_steps(context, job_id), stored(context, job_id)) == ([3], ["3-2"])


def test_a_run_resumes_from_the_newest_and_not_from_the_best(context: WorkerContext, tmp_path: Path) -> None:
    insert_job(context.engine)
    lease = must_claim(context.engine)
    for step, exact_match in enumerate([0.9, 0.1, 0.1, 0.1], start=1):
        write(context, lease, step, exact_match=exact_match)
    place = _newest_whole_checkpoint(context, lease, tmp_path)
    assert place is not None
    assert Path(place).name == "4-1"
