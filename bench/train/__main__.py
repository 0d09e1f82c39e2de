"""`python -m bench.train`: one run, one table; `--json` adds one JSON object as the last line."""

import argparse
import json
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from app.ml.engine.batching import SameRows, TokenRow, step_rows
from app.ml.engine.device import device_facts, pick_device, use_threads
from app.ml.spec import PRESETS, FinetuneSpec
from bench.restart import restart_with_allocator_environment
from bench.train.contestant import Contestant, Measurement
from bench.train.hf_trainer import run_hf_trainer
from bench.train.ours import run_ours
from bench.train.report import peers_missing, samples_per_s, speed_table, summarise, timed, versions
from bench.train.workload import MODELS, Workload

RECIPE = PRESETS["recipe"]
PARTS = ("speed", "dora", "eager", "checkpointing", "cold", "parity")


def main() -> None:
    """Runs the parts that are asked for."""
    options = _options()
    warnings.filterwarnings("ignore", category=FutureWarning)
    restart_with_allocator_environment("bench.train")
    device = torch.device("cpu") if options.device == "cpu" else pick_device()
    use_threads(None)
    workload = Workload(options.model, device, Path(options.store))
    report: dict[str, Any] = {
        "device": device_facts(device).name,
        "model": options.model,
        "precision": str(workload.dtype).removeprefix("torch."),
        "versions": versions(),
        "not_installed": peers_missing(),
    }
    print(f"# {report['model']} on {report['device']}, {report['precision']}; {report['versions']}", flush=True)
    parts = {"speed": _speed, "dora": _dora, "eager": _eager, "checkpointing": _checkpointing, "cold": _cold, "parity": _parity}
    for part in options.part:
        started = time.perf_counter()
        report |= parts[part](workload, options)
        print(f"({part}: {time.perf_counter() - started:.0f} s)\n", flush=True)
    if options.json:
        print(json.dumps(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="gemma-2b-shapes")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--part", choices=PARTS, nargs="+", help="on a GPU all but parity; on a CPU speed and parity")
    parser.add_argument("--store", default=".dianda/models", help="model store that holds gemma-3-270m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps of ours a round; slow peers take fewer")
    parser.add_argument("--batch", type=int, help="effective batch: 64, on a CPU 16")
    parser.add_argument("--pack-tokens", type=int, default=3000, help="tokens of a step of the part eager")
    parser.add_argument("--parity-steps", type=int, default=0, help="0: 200 on a GPU, 12 of 16 rows on a CPU")
    parser.add_argument("--samples", type=int, default=25_000, help="of the part cold")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    on_cpu = options.device == "cpu" or pick_device().type == "cpu"
    options.part = options.part or (["speed", "parity"] if on_cpu else [part for part in PARTS if part != "parity"])
    options.batch = options.batch or (16 if on_cpu else 64)
    options.steps = options.steps or (6 if on_cpu else 20)
    return options


def _batched(spec: FinetuneSpec, batch: int, rows_at_once: int) -> FinetuneSpec:
    return replace(
        spec,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=batch // rows_at_once,
        num_train_epochs=1.0,
        save_steps=1_000_000,
    )


def _speed(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    recipe = _batched(RECIPE, options.batch, min(8, options.batch))
    tuned = _batched(RECIPE, options.batch, options.batch)
    contestants = [
        Contestant("ours", partial(run_ours, workload, recipe), recipe),
        Contestant("hf_trainer", partial(run_hf_trainer, workload, recipe), recipe),
        Contestant("hf_trainer_tuned", partial(run_hf_trainer, workload, tuned), tuned),
    ]
    slow = {"hf_trainer", "hf_trainer_tuned"} if workload.device.type == "cpu" else {"hf_trainer", "hf_trainer_checkpointing"}
    if workload.device.type != "cpu":
        run = partial(run_hf_trainer, workload, recipe, is_checkpointing=True)
        contestants.append(Contestant("hf_trainer_checkpointing", run, recipe))
    rows = workload.rows(options.batch * options.steps)
    runs: dict[str, list[Measurement]] = {contestant.name: [] for contestant in contestants}
    for number in range(options.rounds):
        for contestant in contestants:
            steps = min(options.steps, 3 if workload.device.type == "cpu" else 5) if contestant.name in slow else options.steps
            measured = contestant.run(rows, steps)
            runs[contestant.name].append(measured)
            print(f"round {number + 1}: {contestant.name} {samples_per_s(measured, options.batch):.1f} samples/s", flush=True)
    results = {name: summarise(measured, options.batch) for name, measured in runs.items()}
    print("\n" + speed_table(results) + "\n")
    ours = results["ours"]["samples_per_s"]
    return results | {
        "ratio": {name: round(ours / result["samples_per_s"], 2) for name, result in results.items() if name != "ours"}
    }


def _dora(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """DoRA's step against LoRA's, alternating."""
    rows = workload.rows(options.batch * options.steps)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(options.rounds):
        for use_dora in (True, False):
            spec = replace(_batched(RECIPE, options.batch, options.batch), use_dora=use_dora)
            seconds[use_dora].append(median(timed(run_ours(workload, spec, rows, options.steps).step_seconds)))
    ratio = median(dora / lora for dora, lora in zip(seconds[True], seconds[False], strict=True))
    print(f"DoRA step over LoRA step: {ratio:.3f} ({median(seconds[True]) * 1e3:.1f} / {median(seconds[False]) * 1e3:.1f} ms)")
    return {"dora_over_lora": round(ratio, 3)}


def _eager(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """The path without graphs and Triton against the fast one, at a step of `--pack-tokens` tokens in one pack."""
    batch = max(1, round(options.pack_tokens / fmean(len(row.prompt) + len(row.answer) - 1 for row in workload.rows(2000))))
    rows = workload.rows(batch * options.steps)
    spec = _batched(RECIPE, batch, batch)
    speeds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(options.rounds):
        for is_eager in (True, False):
            measured = run_ours(workload, spec, rows, options.steps, is_eager=is_eager)
            speeds[is_eager].append(samples_per_s(measured, batch))
    share = median(slow / fast for slow, fast in zip(speeds[True], speeds[False], strict=True))
    print(
        f"Eager at {options.pack_tokens} tokens: {median(speeds[True]):.0f} of {median(speeds[False]):.0f} samples/s, {share:.0%}"
    )
    return {"eager_share": round(share, 3), "eager_samples_per_s": round(median(speeds[True]), 1)}


def _checkpointing(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """Our own gradient checkpointing: speed and memory."""
    spec = replace(_batched(RECIPE, options.batch, options.batch), gradient_checkpointing=True)
    rows = workload.rows(options.batch * options.steps)
    result = summarise([run_ours(workload, spec, rows, options.steps) for _ in range(options.rounds)], options.batch)
    print(f"With gradient checkpointing: {result['samples_per_s']:.0f} samples/s, {result['peak_gib']} GiB")
    return {"ours_checkpointing": result}


def _cold(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """A whole run from nothing: weights, warm-up, every sample."""
    started = time.perf_counter()
    rows = workload.rows(5000)
    spec = replace(_batched(RECIPE, options.batch, options.batch), num_train_epochs=options.samples / 5000)
    measured = run_ours(workload, spec, rows, 1_000_000)
    seconds = time.perf_counter() - started
    measured.check()
    print(f"{options.samples} samples in {seconds:.1f} s, weights and warm-up included; peak {measured.peak_gib} GiB")
    return {"cold_seconds": round(seconds, 1), "cold_samples": options.samples, "cold_peak_gib": measured.peak_gib}


def _parity(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides on the same rows in the same order, without dropout: the losses step by step."""
    on_cpu = workload.device.type == "cpu"
    batch = 16 if on_cpu else options.batch
    steps = options.parity_steps or (12 if on_cpu else 200)
    spec = replace(_batched(RECIPE, batch, batch), lora_dropout=0.0)
    # fp32 on a CPU: there two ways of rounding in bf16 differ by more than any mistake that this looks for.
    workload = replace(workload, precision="fp32") if on_cpu else workload
    drawn = workload.text_rows(batch * steps)
    ordered: list[TokenRow] = [row for step in range(steps) for row in step_rows(SameRows(drawn), step, batch_size=batch, seed=0)]
    ours = run_ours(workload, spec, drawn, steps)
    theirs = run_hf_trainer(workload, spec, ordered, steps)
    ours.check()
    theirs.check()
    difference = fmean(abs(one - other) for one, other in zip(ours.losses, theirs.losses, strict=True))
    course = f"{ours.losses[0]:.3f} to {ours.losses[-1]:.3f}"
    print(f"Mean loss difference over {steps} steps of {batch} rows: {difference:.5f} (losses {course})")
    return {"loss_difference": difference, "parity_steps": steps, "parity_rows": batch}


if __name__ == "__main__":
    main()
