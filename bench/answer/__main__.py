"""`python -m bench.answer`: one run, one table; `--json` adds one JSON object as the last line.

Two settings, never mixed: `real` tunes an adapter (once, cached) and answers real questions with it; `replayed` walks the
answers that `real` recorded, on gemma-2b's shapes with random weights.
"""

import argparse
import gc
import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from app.ml.engine.answering import AnswerEngine, EngineAnswer
from app.ml.engine.device import device_facts, empty_cache, pick_device, use_threads
from app.ml.model_store import GEMMA3_270M
from bench.answer.comparison import Load, compare
from bench.answer.contestant import Codes, Contestant, Task, spread
from bench.answer.engine_costs import mixed_adapter_rates, pass_costs
from bench.answer.fuzz import fuzz, fuzzed_questions
from bench.answer.ours import Ours
from bench.answer.peers import generate_peers, loaded_peer
from bench.answer.quality import agreement, exact_match, gap_at_parting, invalid_count, stepwise_answers
from bench.answer.report import summarise, table
from bench.answer.setting import Setting, real_setting, replayed_setting
from bench.answer.trace import Trace, as_rows, read_trace, write_trace
from bench.restart import restart_with_allocator_environment
from bench.train.report import versions
from bench.train.workload import Workload

CONTESTANTS = ("ours", "generate_merged", "generate_unmerged", "generate_prefix_fn", "generate_static_compiled")
PARTS = ("compare", "costs", "fuzz")


def main() -> None:
    """Runs the parts that are asked for."""
    options = parse_options()
    restart_with_allocator_environment("bench.answer")
    run(options)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line and settles what depends on the device."""
    parser = argparse.ArgumentParser(prog="python -m bench.answer", description=__doc__)
    parser.add_argument("--setting", choices=("real", "replayed"), default="real")
    parser.add_argument("--part", choices=PARTS, nargs="+", help="default: compare, and in the setting replayed costs too")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--store", type=Path, default=Path(".dianda/models"), help="model store that holds gemma-3-270m")
    parser.add_argument("--data", type=Path, help="folder of telecom_train_5000.json and telecom_test_500.json; else the samples")
    parser.add_argument("--adapter-cache", type=Path, default=Path(".dianda/bench"), help="keeps the adapter of the setting real")
    parser.add_argument("--record", type=Path, help="real: file that gets the answers and their passes")
    parser.add_argument("--trace", type=Path, help="replayed: the file that --record wrote")
    parser.add_argument(
        "--shapes", choices=("gemma-2b-shapes", "tiny"), default="gemma-2b-shapes", help="of the setting replayed"
    )
    parser.add_argument("--contestants", choices=CONTESTANTS, nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, help="take only the first so many")
    parser.add_argument("--peer-questions", type=int, help="evenly spread questions that peers answer: 60, on a CPU 20")
    parser.add_argument(
        "--batches", type=int, nargs="+", help="of merged generate; other peers take the first: 64 256, on a CPU 16"
    )
    parser.add_argument("--peer-stream", type=int, help="questions of a peer's throughput: 256, on a CPU 32")
    parser.add_argument("--stream", type=int, help="questions of our throughput: 2048, on a CPU 64")
    parser.add_argument("--adapters", type=int, default=64, help="of the part costs, mixed in one stream")
    parser.add_argument("--fuzz", type=int, default=10_000, help="questions of the part fuzz")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.setting == "replayed" and options.trace is None:
        parser.error("--setting replayed needs --trace FILE, which --setting real --record FILE writes")
    on_cpu = options.device == "cpu" or pick_device().type == "cpu"
    options.part = options.part or (["compare"] if options.setting == "real" else ["compare", "costs"])
    options.batches = options.batches or ([16] if on_cpu else [64, 256])
    options.peer_questions = options.peer_questions or (20 if on_cpu else 60)
    options.peer_stream = options.peer_stream or (32 if on_cpu else 256)
    options.stream = options.stream or (64 if on_cpu else 2048)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the tables and returns the report."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    device = torch.device("cpu") if options.device == "cpu" else pick_device()
    use_threads(None)
    with tempfile.TemporaryDirectory() as scratch:
        setting = _setting(options, device, Path(scratch))
        report: dict[str, Any] = {
            "setting": setting.name,
            "device": device_facts(device).name,
            "model": setting.workload.model,
            "precision": str(setting.workload.dtype).removeprefix("torch."),
            "versions": versions(),
            "adapter": _adapter_facts(setting),
        }
        print(
            f"# {setting.name}: {report['model']} on {report['device']}, {report['precision']}; {report['versions']}", flush=True
        )
        parts = {"compare": _compare, "costs": _costs, "fuzz": _fuzz}
        for part in options.part:
            started = time.perf_counter()
            report |= parts[part](setting, options)
            gc.collect()
            empty_cache(device)
            print(f"({part}: {time.perf_counter() - started:.0f} s)\n", flush=True)
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
    return report


def _setting(options: argparse.Namespace, device: torch.device, scratch: Path) -> Setting:
    model = GEMMA3_270M if options.setting == "real" else options.shapes
    # The probe of `auto` may fall out differently each time; contestants and the cached adapter share one choice.
    workload = Workload(model, device, options.store, options.precision)
    workload = replace(workload, precision="bf16" if workload.dtype == torch.bfloat16 else "fp32")
    if options.setting == "real":
        return real_setting(workload, options.data, options.adapter_cache, options.questions)
    adapters = options.adapters if "costs" in options.part else 1
    return replayed_setting(workload, read_trace(options.trace), adapters, scratch, options.questions)


def _engine(setting: Setting) -> AnswerEngine:
    engine = AnswerEngine(setting.build())
    engine.load(setting.adapters[0].checksum, setting.adapters[0].folder)
    engine.warm_up()
    return engine


def _compare(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Ours and the peers in turn, then what the answers are worth."""
    engine = _engine(setting)
    ours = Ours(engine, setting.adapters[0].checksum)
    folder = setting.adapters[0].folder
    merged = loaded_peer(setting.build(), folder, is_merged=True)
    unmerged = loaded_peer(setting.build(), folder, is_merged=False)
    contestants = generate_peers(merged, unmerged, setting.asking(), options.batches)
    contestants.insert(0, Contestant("ours", ours.answer))
    contestants = [one for one in contestants if one.name in options.contestants]
    load = Load(
        tasks=setting.tasks,
        peer_tasks=spread(setting.tasks, options.peer_questions),
        stream=setting.stream(options.stream),
        peer_stream=setting.stream(options.peer_stream),
    )
    # As the answerer does once its model is loaded; for all contestants alike.
    gc.collect()
    gc.freeze()
    times = compare(contestants, load, options.rounds)
    gc.unfreeze()
    report: dict[str, Any] = dict.fromkeys(CONTESTANTS) | summarise(contestants, times, load)
    print("\n" + table(report, CONTESTANTS) + "\n")
    for contestant in contestants:
        result = report[contestant.name]
        if setting.name == "real" and "error" not in result:
            given = times[contestant.name].given
            result["invalid_answers"] = invalid_count(given.values(), setting.grammar)
            result["exact_match"] = exact_match(load.peer_tasks, given, setting.grammar)["overall"]
    return report | _worth(setting, ours, unmerged, options)


def _worth(setting: Setting, ours: Ours, unmerged: Any, options: argparse.Namespace) -> dict[str, Any]:
    answers = {task.question: _answered(ours, task) for task in setting.tasks}
    given: dict[str, Codes] = {question: answer.best.codes for question, answer in answers.items()}
    passes = [answer.passes for answer in answers.values()]
    counted = all(passes)
    together = ours.answer(setting.tasks)
    report: dict[str, Any] = {
        "mean_passes": round(fmean(passes), 3) if counted else None,
        "p99_passes": float(np.percentile(passes, 99)) if counted else None,
        "invalid_answers": invalid_count(given.values(), setting.grammar),
        "agreement_alone_and_together": round(
            fmean(given[task.question] == codes for task, codes in zip(setting.tasks, together, strict=True)), 4
        ),
    }
    if setting.name == "replayed":
        recorded = [task.recorded_passes or 0 for task in setting.tasks]
        report["recorded_mean_passes"] = round(fmean(recorded), 3)
        report["followed"] = round(fmean(given[task.question] == task.follow for task in setting.tasks), 4)
    else:
        questions = list(given)
        reference = stepwise_answers(
            unmerged,
            questions,
            setting.grammar,
            renderer=setting.renderer,
            tokenizer=setting.tokenizer,
            device=setting.workload.device,
        )
        report |= {"exact_match": exact_match(setting.tasks, given, setting.grammar)}
        report |= agreement(questions, given, reference)
        gaps = [
            gap_at_parting(
                unmerged,
                question,
                given[question],
                codes,
                setting.grammar,
                renderer=setting.renderer,
                tokenizer=setting.tokenizer,
                device=setting.workload.device,
            )
            for question, codes in zip(questions, reference, strict=True)
            if given[question] != codes
        ]
        report["gaps_where_apart_nats"] = sorted(round(gap, 3) for gap in gaps)
        if setting.workload.dtype != torch.float32:
            report |= _against_fp32(setting, given, reference)
        if options.record is not None:
            trace = Trace(
                model=setting.workload.model,
                device=device_facts(setting.workload.device).name,
                renderer=setting.renderer,
                vocabulary=setting.grammar.vocabulary,
                rows=as_rows(questions, [given[question] for question in questions], passes),
                question_index=setting.adapters[0].question_index,
            )
            write_trace(options.record, trace)
            print(f"Recorded {len(questions)} answers in {options.record}.")
    print(json.dumps(report, ensure_ascii=False, indent=1))
    return report


def _against_fp32(setting: Setting, given: Mapping[str, Codes], reference: Sequence[Codes]) -> dict[str, Any]:
    """Tells how far rounding alone takes answers: ours and the reference's, each against the same weights in fp32."""
    exact = replace(setting, workload=replace(setting.workload, precision="fp32"))
    network = loaded_peer(exact.build(), setting.adapters[0].folder, is_merged=False)
    questions = list(given)
    answers = stepwise_answers(
        network,
        questions,
        setting.grammar,
        renderer=setting.renderer,
        tokenizer=setting.tokenizer,
        device=setting.workload.device,
    )
    pairs = list(zip(questions, reference, answers, strict=True))
    return {
        "ours_as_fp32": round(fmean(given[question] == codes for question, _, codes in pairs), 4),
        "stepwise_as_fp32": round(fmean(rounded == codes for _, rounded, codes in pairs), 4),
    }


def _answered(ours: Ours, task: Task) -> EngineAnswer:
    ours.answer([task])
    return ours.last[0]


def _costs(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Single passes, the constraint, and many adapters at once."""
    engine = _engine(setting)
    report = pass_costs(engine)
    if len(setting.adapters) > 1:
        report |= mixed_adapter_rates(engine, setting.adapters, setting.stream(options.stream), rounds=options.rounds)
    print(json.dumps(report, ensure_ascii=False, indent=1))
    return report


def _fuzz(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Hostile questions."""
    questions = fuzzed_questions(options.fuzz, [task.question for task in setting.tasks])
    result = fuzz(
        _engine(setting),
        setting.adapters[0].checksum,
        questions,
        setting.grammar,
        renderer=setting.renderer,
        tokenizer=setting.tokenizer,
    )
    print(json.dumps(result, ensure_ascii=False, indent=1))
    return {"fuzz": result}


def _adapter_facts(setting: Setting) -> dict[str, Any]:
    card = setting.adapters[0].card
    kind = "DoRA" if card.spec.use_dora else "LoRA"
    return {
        "kind": f"{kind} r {card.spec.lora_rank} on {','.join(card.spec.lora_target)}",
        "codes": len(card.vocabulary.codes),
        "has_question_index": setting.adapters[0].question_index is not None,
        **card.metrics,
    }


if __name__ == "__main__":
    main()
