"""The product's own `train`, timed by its hooks."""

import gc
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from app.ml.engine.batching import TokenRow
from app.ml.engine.device import empty_cache, forget_peak_memory, peak_memory_bytes
from app.ml.engine.training import TrainPlan, train
from app.ml.spec import FinetuneSpec
from bench.train.contestant import Measurement
from bench.train.step_watch import StepWatch
from bench.train.workload import Workload


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
        watch = StepWatch(lambda done: done == steps)
        with tempfile.TemporaryDirectory() as folder:
            result = train(base, TrainPlan(spec, rows, 0, Path(folder)), watch)
        losses = result.state.losses
        peak = peak_memory_bytes(base.device)
        seconds = [after - earlier for earlier, after in pairwise((watch.started, *watch.ends))]
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
