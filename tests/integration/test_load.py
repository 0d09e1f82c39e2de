"""The short form of `python -m bench.load`: a killed answerer, a rolling restart and 200 event streams, and no error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
# In 45 seconds an answerer's caches still fill: by 30 to 95 MiB, as the processor's products are compiled; a leak of a pass's
# tensors would show as more. What it comes to in the end is measured over half an hour (docs/reliability.md).
_MOST_GROWTH_MIB = 130


def test_nothing_fails_under_load_while_an_answerer_is_killed_and_everything_is_restarted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.load", "--minutes", "0.75", "--streams", "200", "--stream-epochs", "200"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command += ["--kill-answerer", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, env=environment, check=False)
    assert done.stdout, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])

    assert report["failures"] == 0, report["errors"]
    assert {one["process"] for one in report["restarts"]} == {"answerer", "answerer-2", "api", "worker"}
    assert report["process_starts"]["answerer-2"] == 3
    assert report["streams"]["complete"] == 200
    for process in report["memory"]:
        assert process["last_mib"] - process["first_mib"] < _MOST_GROWTH_MIB, process
