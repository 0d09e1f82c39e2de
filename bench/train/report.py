"""Numbers of several runs as one table and one JSON object."""

import importlib.util
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

from bench.train.contestant import Measurement

WARM_UP_SHARE = 0.4
"""The first share of a run's steps, which compile, capture and allocate; the others are timed."""


def timed(steps: Sequence[float]) -> list[float]:
    """Returns the steps that count."""
    return list(steps[min(len(steps) - 1, max(1, round(len(steps) * WARM_UP_SHARE))) :])


def samples_per_s(measured: Measurement, batch: int) -> float:
    """Returns the speed of a run's timed steps."""
    seconds = timed(measured.step_seconds)
    return batch * len(seconds) / sum(seconds)


def summarise(runs: Sequence[Measurement], batch: int) -> dict[str, Any]:
    """Returns a contestant's median over rounds, with the lowest and highest."""
    for run in runs:
        run.check()
    speeds = sorted(samples_per_s(run, batch) for run in runs)
    peaks = [run.peak_gib for run in runs if run.peak_gib is not None]
    return {
        "samples_per_s": round(median(speeds), 2),
        "spread": [round(speeds[0], 2), round(speeds[-1], 2)],
        "peak_gib": round(max(peaks), 2) if peaks else None,
        "grad_norm": round(runs[-1].grad_norms[-1], 4),
        "final_loss": round(runs[-1].losses[-1], 4),
        "first_step_s": round(runs[0].step_seconds[0], 2),
    }


def versions() -> dict[str, str]:
    """Returns what ran."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "transformers", "peft")}


def peers_missing() -> list[str]:
    """Returns the peers that are not installed here."""
    return [name for name in ("trl", "llamafactory", "unsloth") if importlib.util.find_spec(name) is None]


def speed_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a Markdown table, ours first."""
    lines = ["| contestant | samples/s | lowest to highest | ours over it | peak GiB |", "| --- | --- | --- | --- | --- |"]
    ours = results["ours"]["samples_per_s"]
    for name, result in results.items():
        low, high = result["spread"]
        peak = "" if result["peak_gib"] is None else f"{result['peak_gib']:.2f}"
        speed = result["samples_per_s"]
        lines.append(f"| {name} | {speed:.1f} | {low:.1f} to {high:.1f} | {ours / speed:.2f} | {peak} |")
    return "\n".join(lines)
