"""`python -m bench.load`: the product under mixed load at a fixed rate, restarted meanwhile; then a thousand event streams.

The load comes from a process of its own and counts each request's time from when it was due. What errors, what waits, what grows?
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.load.driver import Visit
from bench.load.memory import Growth, MemoryLog, growth_table
from bench.load.product import LoadedProduct, loaded_product
from bench.load.report import by_kind, first_errors, kind_table
from bench.load.visits import job_request

_JOBS_END_S = 600.0
# Shares of the load, so that there is load before and after.
_RESTARTS_FROM, _KILL_AT = 0.2, 0.05


def main() -> None:
    """Measures and prints; the last line is JSON. Exit code 1 if anything failed."""
    options = parse_options()
    with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory(prefix="load-") as folder:
        report = run(Path(folder), options)
    print("\n".join(tables(report)))
    print(json.dumps(report))
    raise SystemExit(0 if report["failures"] == 0 else 1)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of load")
    parser.add_argument("--streams", type=int, default=1000, help="event streams of one job, after the load; 0: none")
    parser.add_argument("--stream-epochs", type=int, default=1000, help="of the job that they follow; a job has 1000 at most")
    parser.add_argument("--answerers", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=1, help="rolling restarts of answerers, api and worker during the load")
    parser.add_argument("--kill-answerer", action="store_true", help="SIGKILL to one of the answerers during the load")
    parser.add_argument("--database-url", help="an empty PostgreSQL database; without it SQLite")
    parser.add_argument("--folder", type=Path, help="where data and logs stay; without it they are removed")
    parser.add_argument("--plot", type=Path, help="a PNG of the memory")
    return parser.parse_args(arguments)


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns everything measured."""
    with loaded_product(
        folder, database_url=options.database_url, answerers=options.answerers, streams=options.streams
    ) as product:
        memory = MemoryLog()
        load = _load(product, memory, folder, options)
        growths = [asdict(one) for one in memory.growths()]
        if options.plot:
            options.plot.write_bytes(memory.png())
        streams = _streams(product, folder, options) if options.streams else None
        starts = {name: process.starts for name, process in product.stack.processes.items()}
    failed_streams = 0 if streams is None else streams["streams"] - streams["complete"] + streams["out_of_order"]
    errors = sum(row["errors"] + row["refused_connections"] for row in load["kinds"].values())
    return {
        **load,
        "streams": streams,
        "memory": growths,
        "process_starts": starts,
        "failures": errors + load["jobs_lost"] + load["evaluations_lost"] + failed_streams,
        "database": "sqlite" if options.database_url is None else "postgresql",
        "cores": os.cpu_count(),
    }


def _load(product: LoadedProduct, memory: MemoryLog, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    seconds = options.minutes * 60
    output = folder / "visits.json"
    command = [sys.executable, "-m", "bench.load.driver", product.stack.url, str(seconds)]
    restarts: list[dict[str, Any]] = []
    between = (1 - _RESTARTS_FROM) * seconds / max(1, options.restarts)
    restart_at = [_RESTARTS_FROM * seconds + place * between for place in range(options.restarts)]
    kill_at = [_KILL_AT * seconds] if options.kill_answerer else []
    busy = _cpu_s()
    with subprocess.Popen([*command, product.training_file, product.test_file, str(output)], stdin=subprocess.PIPE) as driver:
        began = time.monotonic()
        while driver.poll() is None:
            time.sleep(1)
            now = time.monotonic() - began
            memory.sample(product.stack)
            product.stack.restart_dead()
            if kill_at and now >= kill_at[0]:
                kill_at.pop()
                victim = product.stack.processes[f"answerer-{options.answerers}" if options.answerers > 1 else "answerer"]
                if victim.process is not None:
                    victim.process.send_signal(signal.SIGKILL)
            if restart_at and now >= restart_at[0]:
                restart_at.pop(0)
                restarts += _restart(product, memory, began)
            if not restart_at and driver.stdin is not None and not driver.stdin.closed:
                driver.stdin.close()
        lasted_s = time.monotonic() - began
        busy = _cpu_s() - busy
    made = json.loads(output.read_text())
    visits = [Visit(**visit) for visit in made["visits"]]
    return {
        "seconds": round(lasted_s, 1),
        "requests_per_s": round(len(visits) / lasted_s, 1),
        "kinds": by_kind(visits),
        "errors": first_errors(visits),
        "restarts": restarts,
        "machine_cores_busy": round(busy / lasted_s, 2),
        "jobs": len(made["jobs"]),
        "jobs_lost": _lost(product, [f"/v1/fine_tuning/jobs/{job}" for job in made["jobs"]]),
        "evaluations": len(made["evaluations"]),
        "evaluations_lost": _lost(product, [f"/v1/evaluations/{evaluation}" for evaluation in made["evaluations"]]),
    }


def _restart(product: LoadedProduct, memory: MemoryLog, began: float) -> list[dict[str, Any]]:
    done = []
    before = time.monotonic()
    for name in product.stack.restart_one_by_one():
        done.append({"process": name, "at_s": round(before - began, 1), "took_s": round(time.monotonic() - before, 1)})
        before = time.monotonic()
        memory.sample(product.stack)
    return done


def _lost(product: LoadedProduct, paths: Sequence[str]) -> int:
    """Returns how many of them did not succeed."""
    deadline = time.monotonic() + _JOBS_END_S
    lost = 0
    for path in paths:
        product.stack.restart_dead()
        try:
            lost += product.wait(path, timeout_s=max(1.0, deadline - time.monotonic()))["status"] != "succeeded"
        except TimeoutError:
            lost += 1
    return lost


def _streams(product: LoadedProduct, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    output = folder / "streams.json"
    request = job_request(product.training_file, "streamed", n_epochs=options.stream_epochs, save_steps=100_000)
    job_id = product.client.post("/v1/fine_tuning/jobs", request)["id"]
    command = [sys.executable, "-m", "bench.load.streams", product.stack.url, job_id, str(options.streams), str(output)]
    subprocess.run(command, check=True)
    held = json.loads(output.read_text())
    written, arrivals = product.event_times(job_id), held.pop("arrivals")
    # What was written before the streams began was replayed to them.
    live = [place for place in range(held["events"]) if written[place] > held["began_at"] + 10]
    lags = np.array([arrived - written[place] for place in live for arrived in arrivals[place]])
    return held | {
        "job": product.client.get(f"/v1/fine_tuning/jobs/{job_id}")["status"],
        "written": len(written),
        "events_live": len(live),
        "lag_p50_s": round(float(np.percentile(lags, 50)), 2) if len(lags) else None,
        "lag_worst_s": round(float(lags.max()), 2) if len(lags) else None,
    }


def _cpu_s() -> float:
    """Returns the processor time that the whole machine has spent, seconds."""
    user, nice, system, *_ = (int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def tables(report: dict[str, Any]) -> list[str]:
    """Returns Markdown lines."""
    lines = [*kind_table(report["kinds"]), ""]
    lines += growth_table([Growth(**one) for one in report["memory"]])
    lines += ["", *(f"{report[kind]} {kind}, {report[f'{kind}_lost']} lost" for kind in ("jobs", "evaluations"))]
    lines += [f"{one['process']} restarted at {one['at_s']} s, took {one['took_s']} s" for one in report["restarts"]]
    if streams := report["streams"]:
        lines.append(
            f"{streams['streams']} streams: {streams['complete']} complete with {streams['events']} events, "
            f"{streams['out_of_order']} out of order, lag p50 {streams['lag_p50_s']} s, worst {streams['lag_worst_s']} s"
        )
    lines += [*report["errors"], f"{report['machine_cores_busy']} of {report['cores']} cores busy, neighbours included", ""]
    return lines


if __name__ == "__main__":
    main()
