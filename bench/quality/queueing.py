"""Several runs at once: processes that take the next run, and one line a finished run, so that a killed call loses little."""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.quality.running import RunRequest, run_once

_REQUESTS = "requests.json"


def read_results(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of a file of results; the last of equal keys counts, half a line at its end does not."""
    found: dict[str, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[result["key"]] = result
    return list(found.values())


def append_result(file: Path, result: dict[str, Any]) -> None:
    """Appends one line by one write, which processes beside this one do not tear."""
    line = json.dumps(result, ensure_ascii=False) + "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def write_requests(folder: Path, requests: Sequence[RunRequest]) -> None:
    """Leaves the runs for the processes to take, in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _REQUESTS).write_text(json.dumps([asdict(request) for request in requests]))


def taken_requests(folder: Path, *, until: float) -> Iterator[RunRequest]:
    """Yields runs that no other process has taken, while `time.time()` is below `until`."""
    for number, mapping in enumerate(json.loads((folder / _REQUESTS).read_text())):
        if time.time() > until:
            return
        try:
            (folder / f"taken-{number}").open("x").close()
        except FileExistsError:
            continue
        yield RunRequest(**mapping)


def work(folder: Path, results: Path, *, data: Path, model: Path, until: float, threads: int | None) -> int:
    """Does runs until none is left or the time is over, whether others fail or not; returns how many failed."""
    failed = 0
    for request in taken_requests(folder, until=until):
        began = time.monotonic()
        print(f"{request.key} …", flush=True)
        try:
            result = run_once(request, data=data, model=model, threads=threads)
        except Exception:
            traceback.print_exc()
            print(f"{request.key} failed.", flush=True)
            failed += 1
            continue
        append_result(results, result)
        scores = ", ".join(f"{name} {part['exact_match']:.3f}" for name, part in result["parts"].items())
        print(f"{request.key}: {scores}; {time.monotonic() - began:.0f} s", flush=True)
    return failed


def start_workers(count: int, cards: Sequence[str], arguments: Sequence[str]) -> int:
    """Starts processes that work side by side, spread over the cards, and waits; returns the worst exit status."""
    children = []
    for number in range(count):
        environment = dict(os.environ)
        if cards:
            environment["CUDA_VISIBLE_DEVICES"] = cards[number % len(cards)]
        children.append(subprocess.Popen([sys.executable, "-m", "bench.quality", *arguments], env=environment))
    return max(abs(child.wait()) for child in children)
