"""The product's own `train`, timed by its hooks."""

import gc
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from app.ml.engine.batching import TokenRow
from app.ml.engine.device import empty_cache, forget_peak_memory, peak_memory_bytes
from app.ml.engine.training import TrainPlan, Wish, train
from app.ml.spec import FinetuneSpec
from bench.train.contestant import Measurement
from bench.train.workload import Workload


class _Stopwatch:
    """Hooks that note the time after each step and stop after the last one wanted."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self.times: list[float] = []
        self.notes: list[str] = []

    def on_start(self, **_facts: int) -> None:
        self.times.append(time.perf_counter())

    def on_note(self, message: str) -> None:
        self.notes.append(message)

    def on_progress(self, progress: Any) -> None:
        """Losses and norms are read from the run's state."""

    def on_evaluation(self, state: Any) -> None:
        """Nothing is held out."""

    def on_checkpoint(self, folder: Path, checksum: str, state: Any) -> None:
        """None is asked for."""

    def wish(self) -> Wish:
        self.times.append(time.perf_counter())
        self._left -= 1
        return Wish.STOP if self._left == 0 else Wish.NONE


def run_ours(workload: Workload, spec: FinetuneSpec, rows: list[TokenRow], steps: int, *, is_eager: bool = False) -> Measurement:
    """Trains `steps` steps with the product's engine, as a job would."""
    before = os.environ.pop("DIANDA_EAGER", None)
    if is_eager:
        os.environ["DIANDA_EAGER"] = "1"
    try:
        started = time.perf_counter()
        base = workload.build(workload.dtype)
        forget_peak_memory(base.device)
        built = time.perf_counter() - started
        watch = _Stopwatch(steps)
        with tempfile.TemporaryDirectory() as folder:
            result = train(base, TrainPlan(spec, rows, 0, Path(folder)), watch)
        losses = result.state.losses
        peak = peak_memory_bytes(base.device)
        seconds = [after - earlier for earlier, after in zip(watch.times, watch.times[1:], strict=False)]
        measured = Measurement(
            seconds,
            [entry["loss"] for entry in losses],
            [entry["grad_norm"] for entry in losses],
            built,
            None if peak is None else peak / 2**30,
        )
        del result, base
    finally:
        os.environ.pop("DIANDA_EAGER", None)
        if before is not None:
            os.environ["DIANDA_EAGER"] = before
    gc.collect()
    empty_cache(workload.device)
    return measured
