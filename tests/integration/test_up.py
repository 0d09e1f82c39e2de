"""`dianda up`, as an operator runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from app.cli.stack import free_port
from tests.fixtures.tiny import TINY, write_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]


def _start(folder: Path, *, with_weights: bool) -> tuple[subprocess.Popen[bytes], str]:
    if with_weights:
        write_tiny_model(folder / "data" / "models" / TINY)
    port = free_port()
    environment = {
        **os.environ,
        "DIANDA_DATA_DIR": str(folder / "data"),
        "DIANDA_PORT": str(port),
        "DIANDA_BASE_MODEL": TINY,
        "DIANDA_BASE_MODELS": f'{{"{TINY}": "folder:/nowhere"}}',
    }
    log = (folder / "up.log").open("wb")
    command = [sys.executable, "-m", "app.cli.main", "up"]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    return process, f"http://127.0.0.1:{port}"


def _readiness(url: str, until: int, timeout_s: float = 90) -> httpx2.Response:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            response = httpx2.get(f"{url}/health/ready")
            if response.status_code == until:
                return response
        except httpx2.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{url} never gave {until}")


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_up_starts_everything_and_ctrl_c_ends_everything(tmp_path: Path) -> None:
    process, url = _start(tmp_path, with_weights=True)
    _readiness(url, 200)
    family = _family(process)
    names = " ".join(" ".join(child.cmdline()) for child in family)
    for part in ("redis-server", "app.main:create_app", "app.answerer.main:create_app", "worker.main"):
        assert part in names
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_sighup_replaces_every_process_but_redis_and_refuses_nobody(tmp_path: Path) -> None:
    def pids() -> dict[str, int]:
        parts = ("redis-server", "app.main:create_app", "app.answerer.main:create_app", "worker.main")
        lines = {child.pid: " ".join(child.cmdline()) for child in psutil.Process(process.pid).children()}
        return {part: pid for part in parts for pid, line in lines.items() if part in line}

    process, url = _start(tmp_path, with_weights=True)
    try:
        _readiness(url, 200)
        before = pids()
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 120
        log = tmp_path / "up.log"
        while "worker was restarted" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            # A connection of its own each time: whoever is refused raises here.
            assert httpx2.get(f"{url}/health/live", timeout=30).status_code == 200
        after = pids()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert {part for part in before if before[part] == after[part]} == {"redis-server"}


def test_up_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    process, url = _start(tmp_path, with_weights=True)
    _readiness(url, 200)
    family = _family(process)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


def test_up_without_weights_serves_and_says_what_to_do(tmp_path: Path) -> None:
    process, url = _start(tmp_path, with_weights=False)
    try:
        checks = _readiness(url, 503).json()["checks"]
        assert checks["database"]["ok"]
        assert "dianda models import tiny-gemma" in checks["base_model"]["message"]
        rows = '[{"instruction": "问", "output": "答_1"}]'
        uploaded = httpx2.post(f"{url}/v1/files", files={"file": ("a.json", rows)}, data={"purpose": "fine-tune"})
        assert uploaded.status_code == 200
        body = {"model": TINY, "training_file": uploaded.json()["id"]}
        refused = httpx2.post(f"{url}/v1/fine_tuning/jobs", json=body)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "base_model_missing"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
