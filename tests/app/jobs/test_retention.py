import os
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.blobs.local import LocalBlobStore
from app.db.unit_of_work import unit_of_work
from app.jobs.models import Checkpoint
from app.jobs.retention import JobRetention
from app.jobs.states import TERMINAL, JobStatus
from tests.fixtures.queue import insert_job, must_claim, row_count

DAY_S = 86_400.0


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


@pytest.fixture
def retention(engine: Engine, blobs: LocalBlobStore, tmp_path: Path) -> JobRetention:
    return JobRetention(engine, blobs, tmp_path / "work", days=30)


def add_checkpoint(engine: Engine, blobs: LocalBlobStore, tmp_path: Path, job_id: str, step: int = 1) -> str:
    """Stores a checkpoint and returns its blob key."""
    key = f"checkpoints/{job_id}/{step}-1"
    source = tmp_path / f"source-{job_id}-{step}"
    source.write_text("weights")
    blobs.put_file(key, source)
    fields = {"step": step, "fence": 1, "blob_key": key, "checksum": "0" * 64, "metrics": {}, "created_at": time.time()}
    with unit_of_work(engine) as session:
        session.add(Checkpoint(id=f"ftckpt-{job_id}-{step}", job_id=job_id, **fields))
    return key


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_checkpoints_of_a_job_that_ended_long_ago_go_with_their_files(
    engine: Engine, blobs: LocalBlobStore, retention: JobRetention, tmp_path: Path, status: JobStatus
) -> None:
    job_id = insert_job(engine, status=status, finished_at=time.time() - 31 * DAY_S)
    key = add_checkpoint(engine, blobs, tmp_path, job_id)

    assert retention.enforce() == 1

    assert row_count(engine, Checkpoint) == 0
    assert not blobs.exists(key)


def test_checkpoints_of_a_job_that_ended_lately_stay(
    engine: Engine, blobs: LocalBlobStore, retention: JobRetention, tmp_path: Path
) -> None:
    job_id = insert_job(engine, status=JobStatus.SUCCEEDED, finished_at=time.time() - 29 * DAY_S)
    key = add_checkpoint(engine, blobs, tmp_path, job_id)

    assert retention.enforce() == 0

    assert blobs.exists(key)


@pytest.mark.parametrize("status", sorted(set(JobStatus) - TERMINAL))
def test_checkpoints_of_a_job_that_has_not_ended_stay_however_old(
    engine: Engine, blobs: LocalBlobStore, retention: JobRetention, tmp_path: Path, status: JobStatus
) -> None:
    key = add_checkpoint(engine, blobs, tmp_path, insert_job(engine, status=status, created_at=time.time() - 400 * DAY_S))

    assert retention.enforce() == 0

    assert blobs.exists(key)


def test_a_checkpoint_stays_while_an_evaluation_of_it_waits(
    engine: Engine, blobs: LocalBlobStore, retention: JobRetention, tmp_path: Path
) -> None:
    job_id = insert_job(engine, status=JobStatus.SUCCEEDED, finished_at=time.time() - 31 * DAY_S)
    needed, other = (add_checkpoint(engine, blobs, tmp_path, job_id, step) for step in (1, 2))
    insert_job(engine, spec={"checkpoint": f"ftckpt-{job_id}-1"})

    assert retention.enforce() == 1

    assert blobs.exists(needed)
    assert not blobs.exists(other)


def test_a_round_deletes_a_bounded_number_the_longest_ended_first(
    engine: Engine, blobs: LocalBlobStore, retention: JobRetention, tmp_path: Path
) -> None:
    older = insert_job(engine, status=JobStatus.SUCCEEDED, finished_at=time.time() - 50 * DAY_S)
    newer = insert_job(engine, status=JobStatus.SUCCEEDED, finished_at=time.time() - 40 * DAY_S)
    for step in range(1, 31):
        add_checkpoint(engine, blobs, tmp_path, newer, step)
        add_checkpoint(engine, blobs, tmp_path, older, step)

    assert [retention.enforce() for _ in range(3)] == [50, 10, 0]


def test_the_scratch_folders_of_dead_attempts_go_and_a_running_one_s_stays(
    engine: Engine, retention: JobRetention, tmp_path: Path
) -> None:
    insert_job(engine)
    lease = must_claim(engine)
    names = {f"{lease.job_id}-{lease.fence}": 2, f"{lease.job_id}-0": 2, "ftjob-fresh-1": 0.5}
    for name, age_days in names.items():
        folder = tmp_path / "work" / name
        folder.mkdir(parents=True)
        (folder / "rows").write_text("x")
        written = time.time() - age_days * DAY_S
        os.utime(folder, (written, written))

    assert retention.enforce() == 1

    assert {place.name for place in (tmp_path / "work").iterdir()} == set(names) - {f"{lease.job_id}-0"}


def test_a_round_with_nothing_to_delete_deletes_nothing(engine: Engine, retention: JobRetention) -> None:
    assert retention.enforce() == 0
