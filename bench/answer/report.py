"""Times of several rounds as one table and one JSON object."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from bench.answer.comparison import Load
from bench.answer.contestant import Contestant, Times


def typical_ms(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Returns each question's median over the rounds, in milliseconds."""
    return [median(seconds) * 1e3 for seconds in zip(*rounds, strict=True)]


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Returns p50 and p99 over questions."""
    return {"p50_ms": _rounded(np.percentile(milliseconds, 50)), "p99_ms": _rounded(np.percentile(milliseconds, 99))}


def summarise(contestants: Sequence[Contestant], times: Mapping[str, Times], load: Load) -> dict[str, Any]:
    """Returns each contestant's numbers, and how many times as long as ours each takes for the same questions."""
    report: dict[str, Any] = {}
    alone: dict[str, float] = {}
    asked = {task.question for task in load.peer_tasks}
    for contestant in contestants:
        measured = times[contestant.name]
        if measured.error is not None:
            report[contestant.name] = {"error": measured.error}
            continue
        milliseconds = typical_ms(measured.seconds)
        tasks = load.tasks if contestant.name == "ours" else load.peer_tasks
        shared = [value for task, value in zip(tasks, milliseconds, strict=True) if task.question in asked]
        alone[contestant.name] = median(shared)
        rates = {size: median(values) for size, values in measured.rates.items()}
        spread = [round(median(seconds) * 1e3, 2) for seconds in measured.seconds]
        report[contestant.name] = {
            **percentiles(milliseconds),
            "p50_ms_lowest_to_highest_round": [min(spread), max(spread)],
            "answers_per_s": _rounded(max(rates.values())),
            "answers_per_s_by_batch": {str(size): _rounded(rate) for size, rate in rates.items()},
            "questions": len(tasks),
            **contestant.facts(),
        }
    ours = alone.get("ours")
    ratio = {name: round(value / ours, 2) for name, value in alone.items() if ours and name != "ours"}
    return report | {"ratio": ratio}


def table(report: Mapping[str, Any], names: Sequence[str]) -> str:
    """Returns a Markdown table, in the order of `names`."""
    lines = ["| contestant | p50 ms | p99 ms | its p50 over ours | answers/s |", "| --- | --- | --- | --- | --- |"]
    for name in names:
        result = report.get(name)
        if result is None or "error" in result:
            lines.append(f"| {name} | {'not run' if result is None else result['error']} | | | |")
            continue
        rates = ", ".join(f"{rate:g} ({size} at once)" for size, rate in result["answers_per_s_by_batch"].items())
        ratio = report["ratio"].get(name, "")
        lines.append(f"| {name} | {result['p50_ms']:g} | {result['p99_ms']:g} | {ratio} | {rates} |")
    return "\n".join(lines)


def _rounded(value: Any) -> float:
    return round(float(value), 3 if value < 100 else 1)
