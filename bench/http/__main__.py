"""`python -m bench.http`: what HTTP adds to an answer, how many requests it carries, and what happens at twice as many.

Everything runs on this machine: redis, api and answerer as `dianda up` starts them, the engine scripted, and wrk beside them.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.http.deployment import MODEL, ScriptedEngine, deployed
from bench.http.load import Outcome, apply_load, write_bodies

_SAMPLES = Path(__file__).parents[2] / "samples" / "telecom_demo.json"
# 400 answers a second: a card that cannot keep up, before an HTTP that can.
_SLOW_ENGINE = ScriptedEngine(pass_ms=10, width=4)
_SATURATING_CONNECTIONS = 32
_MEASURED = ("api", "answerer")


def main() -> None:
    """Measures and prints."""
    options = parse_options()
    report = run(options)
    print(table(report))
    if options.json:
        print(json.dumps(report))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.http", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each part; medians are told")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run of the load generator")
    parser.add_argument("--overload-connections", type=int, default=300)
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds that an answer may take")
    parser.add_argument("--no-answer-log", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Returns everything measured; takes about eight runs of `--seconds` a round."""
    alone, saturated, costs, overload, slow = [], [], [], [], []
    answers = logged = 0
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            bodies = Path(scratch) / "bodies"
            write_bodies(bodies, [row["instruction"] for row in json.loads(_SAMPLES.read_text())], model=MODEL)
            quick = {"deadline_s": options.deadline, "log": not options.no_answer_log}
            with deployed(Path(scratch) / "quick", ScriptedEngine(), **quick) as product:
                load = {"bodies": bodies, "seconds": options.seconds}
                alone.append(apply_load(product.url, connections=1, **load))
                before = [product.cpu_seconds(name) for name in _MEASURED]
                saturated.append(apply_load(product.url, connections=_SATURATING_CONNECTIONS, **load))
                replies = saturated[-1].requests_per_s * saturated[-1].seconds
                taken = [product.cpu_seconds(name) - cpu for name, cpu in zip(_MEASURED, before, strict=True)]
                costs.append(
                    {f"{name}_cpu_ms_a_request": 1000 * cpu / replies for name, cpu in zip(_MEASURED, taken, strict=True)}
                    # Under full load, what is missing to 1 went to neighbours.
                    | {"api_cores": taken[0] / saturated[-1].seconds}
                )
                rate = 2 * saturated[-1].requests_per_s
                overload.append(apply_load(product.url, connections=options.overload_connections, rate=rate, **load))
                # The first answer is the one that showed that the product was up.
                given = 1 + sum(len(outcomes[-1].of(200)) for outcomes in (alone, saturated, overload))
                answers += given
                logged += product.logged_answers(given) if not options.no_answer_log else 0
            with deployed(Path(scratch) / "slow", _SLOW_ENGINE, **quick) as product:
                rate = 2 * 1000 * _SLOW_ENGINE.width / _SLOW_ENGINE.pass_ms
                slow.append(apply_load(product.url, connections=options.overload_connections, rate=rate, **load))
    return {
        "one_connection": middle([_latency(outcome) for outcome in alone]),
        "saturated": middle(
            [
                {"requests_per_s": outcome.requests_per_s} | _latency(outcome) | cost
                for outcome, cost in zip(saturated, costs, strict=True)
            ]
        ),
        "http_at_twice_its_saturation": middle([_overload(outcome, options.deadline) for outcome in overload]),
        "engine_at_twice_its_saturation": middle([_overload(outcome, options.deadline) for outcome in slow]),
        "answer_log": {"answers": answers, "logged": logged, "is_on": not options.no_answer_log},
        "deadline_s": options.deadline,
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("fastapi", "uvicorn", "aiohttp", "pydantic", "SQLAlchemy")},
    }


def middle(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the median of each number over the rounds, and the lowest and highest of the first one."""
    first = next(iter(rounds[0]))
    values = {name: _rounded(median(one[name] for one in rounds)) for name in rounds[0]}
    return values | {f"{first}_lowest_to_highest": [_rounded(edge([one[first] for one in rounds])) for edge in (min, max)]}


def table(report: dict[str, Any]) -> str:
    """Returns a Markdown table."""
    alone, full = report["one_connection"], report["saturated"]
    lines = [
        "| measured | value |",
        "| --- | --- |",
        f"| one connection, p50 / p99 | {alone['p50_ms']} / {alone['p99_ms']} ms |",
        f"| saturated ({_SATURATING_CONNECTIONS} connections) | {full['requests_per_s']} requests/s, p50 {full['p50_ms']} ms |",
        f"| CPU a request: api, answerer | {full['api_cpu_ms_a_request']}, {full['answerer_cpu_ms_a_request']} ms |",
        f"| cores that the api got, saturated | {full['api_cores']} |",
    ]
    for name in ("http_at_twice_its_saturation", "engine_at_twice_its_saturation"):
        part = report[name]
        lines.append(
            f"| {name.replace('_', ' ')} | {part['requests_per_s']} requests/s: {part['answers_per_s']} answers/s, "
            f"p99 {part['answer_p99_ms']} ms, {part['late']} late; 429 p50 {part['refusal_p50_ms']} ms, "
            f"p99 {part['refusal_p99_ms']} ms, {part['refused_within_50_ms']} within 50 ms; {part['other']} other |"
        )
    log = report["answer_log"]
    lines.append(f"| answer log | {log['logged']} of {log['answers']} |")
    return "\n".join(lines)


def _latency(outcome: Outcome) -> dict[str, float]:
    return {"p50_ms": _percentile(outcome, 200, 50), "p99_ms": _percentile(outcome, 200, 99)}


def _overload(outcome: Outcome, deadline_s: float) -> dict[str, float]:
    refused, answered = outcome.of(429), outcome.of(200)
    others = sum(len(values) for status, values in outcome.milliseconds.items() if status not in (200, 429))
    return {
        "requests_per_s": outcome.requests_per_s,
        "answers_per_s": outcome.answers_per_s(),
        "answer_p50_ms": _percentile(outcome, 200, 50),
        "answer_p99_ms": _percentile(outcome, 200, 99),
        "late": int((answered > deadline_s * 1000).sum()),
        "refused_share": len(refused) / max(1, len(refused) + len(answered)),
        "refusal_p50_ms": _percentile(outcome, 429, 50),
        "refusal_p99_ms": _percentile(outcome, 429, 99),
        "refused_within_50_ms": float((refused <= 50).mean()) if len(refused) else 1.0,
        "other": others,
        "broken": outcome.broken,
    }


def _percentile(outcome: Outcome, status: int, share: float) -> float:
    values = outcome.of(status)
    return float(np.percentile(values, share)) if len(values) else 0.0


def _rounded(value: float) -> float:
    return round(float(value), 3 if value < 100 else 1)


if __name__ == "__main__":
    main()
