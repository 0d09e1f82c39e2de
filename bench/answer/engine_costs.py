"""What the engine's own parts cost: one pass, the constraint, and many adapters at once."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from app.ml.engine.answering import AnswerEngine
from bench.answer.adapters import PreparedAdapter
from bench.answer.contestant import Task
from bench.answer.ours import Ours
from bench.answer.pass_times import time_constraint, time_pass

PASS_SHAPES = ((32, 1), (64, 1), (256, 8), (1024, 16))
"""Tokens and rows of the passes that are timed."""


def pass_costs(engine: AnswerEngine) -> dict[str, Any]:
    """Returns the milliseconds of single passes, and those of the constraint in one."""
    passes = {
        f"{tokens} tokens, {rows} rows": round(time_pass(engine, tokens=tokens, rows=rows) * 1e3, 3)
        for tokens, rows in PASS_SHAPES
    }
    return {"pass_ms": passes, "constraint_ms": round(time_constraint(engine) * 1e3, 4)}


def mixed_adapter_rates(
    engine: AnswerEngine, adapters: Sequence[PreparedAdapter], tasks: Sequence[Task], *, rounds: int
) -> dict[str, Any]:
    """Returns answers a second of all adapters in turn in one stream, and of one alone, alternating."""
    for adapter in adapters:
        if not engine.holds(adapter.checksum):
            engine.load(adapter.checksum, adapter.folder)
    ways = {
        "one_adapter": Ours(engine, adapters[0].checksum),
        "mixed_adapters": Ours(engine, *(adapter.checksum for adapter in adapters)),
    }
    held = sum(engine.holds(adapter.checksum) for adapter in adapters)
    if held < len(adapters):
        return {"mixed": {"error": f"the engine holds {held} of {len(adapters)} adapters at once"}}
    engine.warm_up()
    for ours in ways.values():
        ours.answer(tasks)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, ours in ways.items():
            started = time.perf_counter()
            ours.answer(tasks)
            rates[name].append(len(tasks) / (time.perf_counter() - started))
    ratio = median(mixed / one for mixed, one in zip(rates["mixed_adapters"], rates["one_adapter"], strict=True))
    return {
        "mixed": {
            "adapters": len(adapters),
            **{f"{name}_answers_per_s": round(median(values), 1) for name, values in rates.items()},
            "ratio": round(ratio, 3),
        }
    }
