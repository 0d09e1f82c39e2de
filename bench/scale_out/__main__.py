"""`python -m bench.scale_out`: an experiment of eight arms on 1, 2 and 4 workers, timed from the post to its end."""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from app.cli.client import ApiClient
from app.cli.stack import Stack, running_stack
from app.db.engine import make_engine
from app.db.migrating import upgrade
from app.db.unit_of_work import read_only
from app.jobs import repository as jobs
from bench.load.visits import dataset
from bench.scale_out.scripted_child import EVALUATION_S, TRAINING_S
from bench.tiny_gemma import TINY
from bench.tiny_product import tiny_product

ARMS = 8
_START_S = 180.0
_PATIENCE_S = 600.0


def main() -> None:
    """Measures and prints; the last line is JSON."""
    options = parse_options()
    report = run(options)
    print("\n".join(table(report)))
    print(json.dumps(report))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale_out", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3, help="of each number of workers; medians are told")
    parser.add_argument("--training-s", type=float, default=5.0, help="that a scripted training sleeps")
    parser.add_argument("--evaluation-s", type=float, default=1.0, help="that a scripted evaluation sleeps")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the wall times by number of workers."""
    os.environ[TRAINING_S], os.environ[EVALUATION_S] = str(options.training_s), str(options.evaluation_s)
    walls = {}
    for workers in options.workers:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            walls[workers] = _walls(Path(folder), workers, options.rounds)
    first = median(walls[options.workers[0]])
    return {
        "arms": ARMS,
        "training_s": options.training_s,
        "evaluation_s": options.evaluation_s,
        "cores": os.cpu_count(),
        "workers": [
            {
                "workers": workers,
                "wall_s": round(median(measured), 1),
                "lowest_to_highest_s": [round(min(measured), 1), round(max(measured), 1)],
                "of_the_first": round(median(measured) / first, 2),
            }
            for workers, measured in walls.items()
        ],
    }


def _walls(folder: Path, workers: int, rounds: int) -> list[float]:
    # No question is asked, so nobody answers.
    settings = tiny_product(folder / "data", answer_backend="openai_upstream", sweep_interval_s=1)
    upgrade(make_engine(settings.resolved_database_url))
    with (
        running_stack(settings, workers=workers, worker_app="bench.scale_out.scripted_worker") as stack,
        ApiClient(stack.url) as client,
    ):
        _wait_for_workers(stack, workers)
        files = {}
        for purpose, rows in (("fine-tune", 16), ("evals", 8)):
            path = folder / f"{purpose}.json"
            path.write_bytes(dataset(rows))
            files[purpose] = client.upload(path, purpose=purpose)["id"]
        return [_wall(client, files, seed=seed) for seed in range(rounds)]


def _wall(client: ApiClient, files: dict[str, str], *, seed: int) -> float:
    body = {
        "model": TINY,
        "training_file": files["fine-tune"],
        "test_file": files["evals"],
        "hyperparameters": {"preset": "quick", "precision": "fp32", "n_epochs": 1},
        "vary": {"kind": "hyperparameters", "grid": {"learning_rate": [1e-4, 2e-4, 4e-4, 8e-4], "lora_rank": [2, 4]}},
        "seed": seed,
    }
    began = time.monotonic()
    made = client.post("/v1/experiments", body)
    assert len(made["arms"]) == ARMS
    while made["status"] == "running":
        if time.monotonic() - began > _PATIENCE_S:
            raise TimeoutError(f"The experiment has not ended after {_PATIENCE_S:.0f} s: {made}")
        time.sleep(0.1)
        made = client.get(f"/v1/experiments/{made['id']}")
    if made["status"] != "succeeded":
        raise RuntimeError(f"The experiment ended as {made['status']}: {made}")
    return time.monotonic() - began


def _wait_for_workers(stack: Stack, workers: int) -> None:
    engine = make_engine(stack.settings.resolved_database_url)
    deadline = time.monotonic() + _START_S
    try:
        while time.monotonic() < deadline:
            with read_only(engine) as session:
                if len(jobs.live_workers(session, within_s=_START_S)) >= workers:
                    return
            time.sleep(0.2)
    finally:
        engine.dispose()
    raise TimeoutError(f"{workers} workers did not come up. Their logs: {stack.logs}")


def table(report: dict[str, Any]) -> list[str]:
    """Returns a Markdown table."""
    lines = ["| workers | wall time | lowest to highest | of the first |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row['workers']} | {row['wall_s']} s | {row['lowest_to_highest_s'][0]} to {row['lowest_to_highest_s'][1]} s "
        f"| {row['of_the_first']} |"
        for row in report["workers"]
    ]
    return lines


if __name__ == "__main__":
    main()
