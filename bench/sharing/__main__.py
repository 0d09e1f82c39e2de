"""`python -m bench.sharing`: answers alone, then beside a training on the same card; `--json` adds one JSON object.

Each side is a process of its own, as in the product, within the memory that the policy `share` gives it on a card of 16 GiB.
"""

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from app.ml.engine.device import device_facts, pick_device
from app.ml.spec import PRESETS
from bench.restart import restart_with_allocator_environment
from bench.sharing.answering import Answered
from bench.sharing.sides import WARM_STEPS, Orders, Side, run_asking, run_training
from bench.sharing.training import Trained
from bench.train.report import versions
from bench.train.workload import MODELS


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = _options(arguments)
    if arguments is None:
        restart_with_allocator_environment("bench.sharing")
    report = run(options)
    for name in ("answers_alone", "answers_beside"):
        side = report[name]
        print(f"{name}: p50 {side['p50_ms']} ms, p99 {side['p99_ms']} ms over {side['answers']} answers")
    alone, beside = report["training_alone"], report["training_beside"]
    print(f"training: {alone['samples_per_s']} samples/s alone, {beside['samples_per_s']} beside the answers")
    print(f"peaks, GiB: training {beside['peak_gib']}, answering {report['answers_beside']['peak_gib']}")
    if options.json:
        print(json.dumps(report))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures: each side alone, then both at once."""
    orders = Orders(
        options.model,
        options.device,
        options.store,
        options.tokenizer or options.store / "gemma-3-270m",
        options.training_gib,
        options.answering_gib,
        options.checkpointing,
    )
    # CUDA does not live through a fork.
    context = multiprocessing.get_context("spawn")
    with Side(context, run_training, orders) as trainer:
        trainer.wait_for("warm")
        trainer.sleep(options.seconds)
        training_alone = trainer.stop()
    with Side(context, run_asking, orders, options.seconds, options.per_s) as asker:
        asker.wait_for("warm")
        answers_alone = asker.ask()
        with Side(context, run_training, orders) as trainer:
            trainer.wait_for("warm")
            answers_beside = asker.ask()
            training_beside = trainer.stop()
        asker.end()
    workload_rows = PRESETS["recipe"].effective_batch_size
    device = torch.device("cpu") if options.device == "cpu" else pick_device()
    first, last = answers_beside.times[0][0], answers_beside.times[-1][0]
    return {
        "device": device_facts(device).name,
        "model": options.model,
        "versions": versions(),
        "limits_gib": {"training": options.training_gib, "answering": options.answering_gib},
        "checkpointing_asked_for": options.checkpointing,
        "questions_per_s": options.per_s,
        "seconds": options.seconds,
        "answers_alone": _answer_figures(answers_alone),
        "answers_beside": _answer_figures(answers_beside),
        "training_alone": _training_figures(training_alone, workload_rows),
        "training_beside": _training_figures(training_beside, workload_rows, between=(first, last)),
    }


def _answer_figures(answered: Answered) -> dict[str, Any]:
    milliseconds = [seconds * 1000 for _, seconds in answered.times]
    percentiles = quantiles(milliseconds, n=100, method="inclusive") if len(milliseconds) > 1 else milliseconds * 99
    return {
        "answers": len(milliseconds),
        "p50_ms": round(median(milliseconds), 2),
        "p99_ms": round(percentiles[98], 2),
        "slowest_ms": round(max(milliseconds), 2),
        "peak_gib": _gib(answered.peak_bytes),
    }


def _training_figures(trained: Trained, batch: int, *, between: tuple[float, float] | None = None) -> dict[str, Any]:
    ends = trained.step_ends[WARM_STEPS - 1 :]
    if between is not None:
        ends = [end for end in ends if between[0] <= end <= between[1]] or ends
    steps, seconds = len(ends) - 1, ends[-1] - ends[0]
    return {
        "steps": steps,
        "samples_per_s": round(steps * batch / seconds, 1) if seconds else None,
        "peak_gib": _gib(trained.peak_bytes),
        "pack_tokens": trained.token_budget,
        "notes": trained.notes,
    }


def _gib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 2**30, 2)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sharing", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="gemma-2b-shapes")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--store", type=Path, default=Path(".dianda/models"), help="model store that holds gemma-3-270m")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer that makes the codes; default: gemma-3-270m's")
    parser.add_argument("--training-gib", type=float, default=8.0, help="0: no limit")
    parser.add_argument("--answering-gib", type=float, default=6.5, help="0: no limit")
    parser.add_argument("--checkpointing", action="store_true", help="even where the product would not need it")
    parser.add_argument("--per-s", type=float, default=20.0, help="questions a second, at random moments; 0: without a pause")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.training_gib = options.training_gib or None
    options.answering_gib = options.answering_gib or None
    options.per_s = options.per_s or None
    return options


if __name__ == "__main__":
    main()
