"""One run of wrk against the running product, and what came of it."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SCRIPT = Path(__file__).with_name("load.lua")
_TIMEOUT_S = 30
Array = np.ndarray[tuple[int], np.dtype[np.float64]]


class LoadFailed(Exception):
    """wrk is not there, or ended without a result; the text says what to do."""


@dataclass(frozen=True)
class Outcome:
    """What one run of the load generator saw."""

    seconds: float
    milliseconds: Mapping[int, Array]
    """Sorted latencies by status."""
    broken: int
    """Connections that failed and requests that got no reply within 30 s."""

    @property
    def requests_per_s(self) -> float:
        """Replies a second, of every status."""
        return sum(len(values) for values in self.milliseconds.values()) / self.seconds

    def answers_per_s(self) -> float:
        """Answers a second."""
        return len(self.of(200)) / self.seconds

    def of(self, status: int) -> Array:
        """Returns the latencies of a status, milliseconds."""
        return self.milliseconds.get(status, np.zeros(0))


def find_wrk() -> str:
    """Returns the load generator's path.

    Raises:
        LoadFailed: it is not installed.
    """
    if found := shutil.which("wrk"):
        return found
    raise LoadFailed("There is no wrk. Install it: apt-get install wrk")


def write_bodies(path: Path, questions: Sequence[str], *, model: str) -> None:
    """Writes a request body a line."""
    bodies = [json.dumps({"question": question, "model": model}, ensure_ascii=False) for question in questions]
    path.write_text("\n".join(bodies) + "\n")


def apply_load(url: str, bodies: Path, *, connections: int, seconds: float, rate: float | None = None) -> Outcome:
    """Posts the bodies for some seconds over so many connections.

    Without a rate each connection asks again at once. With one, it pauses at random so that all together ask `rate` times a
    second where replies are quick; a connection that waits for its reply asks no more, so the rate that was reached is told.

    Raises:
        LoadFailed: wrk ended without a result.
    """
    pause_ms = 0.0 if rate is None else 1000 * connections / rate
    command = [find_wrk(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={_TIMEOUT_S}s"]
    environment = {**os.environ, "BENCH_BODIES": str(bodies), "BENCH_PAUSE_MS": str(pause_ms)}
    done = subprocess.run(
        [*command, "-s", str(_SCRIPT), f"{url}/answer"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds + 2 * _TIMEOUT_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise LoadFailed(f"wrk gave {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
    return read_outcome(lines[-1])


def read_outcome(line: str) -> Outcome:
    """Reads the line that the script prints."""
    result = json.loads(line)
    # Rows of status, latency in units of 10 us, count.
    counts = np.array(sorted(result["latencies_10us"]), dtype=np.int64).reshape(-1, 3)
    milliseconds = {}
    for status in np.unique(counts[:, 0]):
        _, taken, times = counts[counts[:, 0] == status].T
        milliseconds[int(status)] = np.repeat(taken / 100, times)
    return Outcome(result["seconds"], milliseconds, result["broken"])
