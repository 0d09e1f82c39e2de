"""The short form of `python -m bench.load`: a killed answerer, a rolling restart and 200 event streams, and no error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
# Most that a process may hold at its end. Growth says nothing here: after a restart a process lives for seconds, and meanwhile
# an answerer's caches fill from 0.5 to 1.0 GiB, as fast as the machine lets it. Slopes are measured over half an hour.
_MOST_MIB = {"answerer": 1300, "answerer-2": 1300}
_MOST_MIB_OF_OTHERS = 400


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
        assert process["last_mib"] < _MOST_MIB.get(process["name"], _MOST_MIB_OF_OTHERS), process
