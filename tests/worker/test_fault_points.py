"""A process that dies, freezes or finds its disk full at a named point: what others make of the work it left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine, select

from app.adapters.models import Adapter
from app.blobs.local import LocalBlobStore
from app.datasets.models import Dataset
from app.db.engine import make_engine
from app.db.migrating import upgrade
from app.db.unit_of_work import read_only
from app.durable import verify_folder
from app.fault_points import FAULT_POINTS
from app.jobs.sweeping import sweep
from tests.fixtures.queue import RecordingDoorbell, let_lease_die, read_events, read_job
from tests.worker.dying_at_points import JOB_ID, queue, work

ROOT = Path(__file__).resolve().parents[2]
# The answerer's: tests/integration, for it needs a model.
OF_THE_QUEUE = [point for point in FAULT_POINTS if point != "before_adapter_loaded"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    upgrade(make_engine(f"sqlite:///{tmp_path / 'dianda.db'}"))
    return tmp_path


def start(folder: Path, fault: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.worker.dying_at_points", str(folder)],
        cwd=ROOT,
        env={**os.environ, "DIANDA_FAULT_POINT": fault},
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_whole(folder: Path, engine: Engine) -> None:
    """Each thing once, each file behind its row, each event in its place."""
    job = read_job(engine, JOB_ID)
    assert job.status == "succeeded", job.error_message
    numbers = [event.number for event in read_events(engine, JOB_ID)]
    assert numbers == list(range(1, len(numbers) + 1))
    with read_only(engine) as session:
        (adapter,) = session.scalars(select(Adapter)).all()
        results = session.scalars(select(Dataset)).all()
    assert adapter.id == job.adapter_id == "points:1"
    blobs = LocalBlobStore(folder / "blobs")
    assert verify_folder(blobs.fetch(adapter.blob_key, folder)) == adapter.checksum
    assert {dataset.id for dataset in results} == set((job.result_file_ids or {}).values())
    assert all(blobs.exists(dataset.blob_key) for dataset in results)


def go_on(folder: Path, engine: Engine) -> None:
    """What the api's upkeep and the next worker do."""
    if read_job(engine, JOB_ID).status == "running":
        let_lease_die(engine, JOB_ID)
    sweep(engine, RecordingDoorbell())
    work(folder, owner="worker-2")


@pytest.mark.parametrize("point", OF_THE_QUEUE)
def test_a_job_whose_process_is_killed_at_a_point_is_done_once_by_another(folder: Path, point: str) -> None:
    process = start(folder, f"{point}:kill")
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said
    assert f"DIANDA_FAULT_POINT={point}:kill happens" in said
    engine = make_engine(f"sqlite:///{folder / 'dianda.db'}")
    go_on(folder, engine)
    assert_whole(folder, engine)


@pytest.mark.parametrize("point", ["after_claim", "before_renewal", "before_rename", "after_commit_of_end"])
def test_a_job_whose_process_freezes_at_a_point_is_done_by_another_and_the_frozen_one_adds_nothing(
    folder: Path, point: str
) -> None:
    process = start(folder, f"{point}:stall")
    deadline = time.monotonic() + 60
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    engine = make_engine(f"sqlite:///{folder / 'dianda.db'}")
    go_on(folder, engine)
    assert_whole(folder, engine)
    while process.poll() is None:
        # It freezes each time that it comes by.
        process.send_signal(signal.SIGCONT)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert_whole(folder, engine)


@pytest.mark.parametrize("point", ["before_rename", "before_commit_of_checkpoint", "before_commit_of_end"])
def test_a_job_that_finds_the_disk_full_at_a_point_three_times_says_so_and_leaves_no_half(folder: Path, point: str) -> None:
    process = start(folder, f"{point}:enospc")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    engine = make_engine(f"sqlite:///{folder / 'dianda.db'}")
    job = read_job(engine, JOB_ID)
    assert (job.status, job.error_code, job.adapter_id) == ("failed", "worker_lost", None)
    assert "Make room" in str(job.error_message)
    with read_only(engine) as session:
        assert not session.scalars(select(Dataset)).all()
    assert not [path for path in (folder / "blobs" / "files").glob("*") if not path.name.startswith(".")]


def test_a_job_is_queued_once_though_nobody_could_be_told(folder: Path) -> None:
    process = start(folder, "before_bell:enospc")
    process.communicate(timeout=60)
    assert (folder / "rung").exists()
    assert_whole(folder, make_engine(f"sqlite:///{folder / 'dianda.db'}"))


def test_the_whole_way_without_a_fault_is_whole(folder: Path) -> None:
    queue(folder)
    assert work(folder) == 1
    assert_whole(folder, make_engine(f"sqlite:///{folder / 'dianda.db'}"))
