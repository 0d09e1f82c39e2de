"""The product's training in a process of its own: steps until it is told to stop, each with its time."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.ml.engine.device import forget_peak_memory, limit_memory, peak_memory_bytes, use_threads
from app.ml.engine.training import TrainPlan, train
from app.ml.spec import FinetuneSpec
from bench.train.step_watch import StepWatch
from bench.train.workload import Workload


@dataclass(frozen=True)
class Trained:
    """When steps ended, on the clock that all processes of a host share, and the memory that they took."""

    step_ends: list[float]
    peak_bytes: int | None
    token_budget: int
    notes: list[str]


def train_until(workload: Workload, spec: FinetuneSpec, *, gib: float | None, is_over: Callable[[int], bool]) -> Trained:
    """Trains within `gib` until `is_over(steps)`; rows are 5,000 with the lengths of a real dataset."""
    use_threads(None)
    limit_memory(workload.device, gib)
    base = workload.build(workload.dtype)
    forget_peak_memory(base.device)
    watch = StepWatch(is_over)
    with tempfile.TemporaryDirectory() as folder:
        result = train(base, TrainPlan(spec, workload.rows(5000), 0, Path(folder)), watch)
    return Trained(watch.ends, peak_memory_bytes(base.device), result.state.token_budget, watch.notes)
