"""deploy/slurm: the real script and worker under the signals that Slurm sends. No Slurm is at hand."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.fixtures.compose import ROOT
from tests.integration.conftest import Product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCRIPT = ROOT / "deploy" / "slurm" / "dianda-worker.sbatch"
# Some 600 steps of 10 ms, and no checkpoint but the one that a stop writes.
LONG = {"n_epochs": 300, "save_steps": 100_000}


@dataclass
class Allocation:
    """A batch script in a session of its own, as Slurm starts it."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def processes(self) -> list[psutil.Process]:
        """Returns the script and everything below it."""
        script = psutil.Process(self.process.pid)
        return [script, *script.children(recursive=True)]

    def signal_script(self) -> None:
        """The time limit is near: `--signal=B:TERM@120`."""
        self.process.send_signal(signal.SIGTERM)

    def signal_everything(self) -> None:
        """The allocation is cancelled or preempted: SIGCONT and SIGTERM to every process."""
        processes = self.processes()
        for number in (signal.SIGCONT, signal.SIGTERM):
            for process in processes:
                process.send_signal(number)


def settings_file(folder: Path, product: Product) -> Path:
    """Writes the settings that the script reads."""
    settings = {
        **product.stack.processes["worker"].environment,
        "DIANDA_DATABASE_URL": product.stack.settings.resolved_database_url,
    }
    names = [name for name in settings if name.startswith("DIANDA_")]
    lines = [f"DIANDA_BIN={Path(sys.executable).parent}", *(f"{name}='{settings[name]}'" for name in sorted(names))]
    path = folder / "dianda.env"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def start(product: Product, tmp_path: Path) -> Iterator[Callable[[], Allocation]]:
    """Yields what starts the script; meanwhile the product's own worker is away."""
    own = product.stack.processes["worker"]
    own.stop(timeout_s=60)
    path = settings_file(tmp_path, product)
    started: list[Allocation] = []

    def begin() -> Allocation:
        log = tmp_path / f"slurm-{len(started)}.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DIANDA_")}
        environment = kept | {
            "DIANDA_SETTINGS": str(path),
            "SLURM_JOB_ID": "1",
            "SLURM_CPUS_PER_TASK": "1",
            "PYTHONPATH": str(ROOT),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", str(SCRIPT)], env=environment, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
            )
        started.append(Allocation(process, log))
        deadline = time.monotonic() + 60
        while "[queues]" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return started[-1]

    yield begin
    for allocation in started:
        if allocation.process.poll() is None:
            allocation.signal_script()
            allocation.process.wait(60)
    own.start()


def losses(product: Product, job_id: str) -> list[str]:
    """Returns the lines of a job's loss curve."""
    file_id = product.job(job_id)["result_file_names"]["loss.csv"]
    return product.client.get_bytes(f"/v1/files/{file_id}/content").decode().splitlines()


def test_the_time_limit_drains_the_worker_and_the_job_resumes_elsewhere(
    product: Product, start: Callable[[], Allocation]
) -> None:
    allocation = start()
    job_id = product.start_job(product.upload(), "slurm-limit", **LONG)
    product.wait_step(job_id, 2)
    allocation.signal_script()
    assert allocation.process.wait(60) == 0, allocation.log.read_text()
    assert product.job(job_id)["status"] == "interrupted"
    (checkpoint, *_) = product.client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"]
    start()
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"
    assert checkpoint["step_number"] >= 2
    steps = [int(line.partition(",")[0]) for line in losses(product, job_id)[1:]]
    assert steps == list(range(1, 601)), "the resumed run repeats or skips a step"


def test_a_cancelled_allocation_saves_although_every_process_is_told_at_once(
    product: Product, start: Callable[[], Allocation]
) -> None:
    allocation = start()
    job_id = product.start_job(product.upload(), "slurm-cancel", **LONG)
    product.wait_step(job_id, 2)
    allocation.signal_everything()
    # KillWait
    allocation.process.wait(30)
    assert product.job(job_id)["status"] == "interrupted"
    assert product.client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"], "nothing was saved"
    start()
    assert product.wait_status(job_id, "succeeded", "failed")["status"] == "succeeded"


def test_an_idle_worker_ends_at_once(product: Product, start: Callable[[], Allocation]) -> None:
    allocation = start()
    product.wait(product.start_job(product.upload(), "slurm-idle", n_epochs=1), lambda job: job["status"] == "succeeded")
    allocation.signal_everything()
    assert allocation.process.wait(20) == 0


def test_settings_that_are_missing_are_named(tmp_path: Path) -> None:
    path = tmp_path / "dianda.env"
    path.write_text("DIANDA_BIN=/somewhere\nDIANDA_DATABASE_URL=postgresql+psycopg://x@y/z\n")
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        env={"DIANDA_SETTINGS": str(path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "DIANDA_BROKER_URL is not set" in done.stderr


def test_the_script_asks_for_a_card_and_for_a_signal_that_leaves_time_to_save() -> None:
    options = re.findall(r"^#SBATCH (--\S+)$", SCRIPT.read_text(), re.MULTILINE)
    assert "--gres=dcu:1" in options
    (told,) = [option for option in options if option.startswith("--signal=")]
    warning_s = int(re.fullmatch(r"--signal=B:TERM@(\d+)", told).group(1))  # type: ignore[union-attr]
    (grace_s,) = map(int, re.findall(r"DIANDA_STOP_GRACE_S:-(\d+)", SCRIPT.read_text()))
    assert grace_s + 20 <= warning_s
