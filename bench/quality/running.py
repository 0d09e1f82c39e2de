"""One run: the worker's own training and the answer engine's own answers, measured by the product's own metrics."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from app.durable import MANIFEST
from app.ml.adapter_card import read_card
from app.ml.calibration import Calibration
from app.ml.engine.device import device_facts
from app.ml.engine.loading import LoadedModel
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.formats.example import Example
from app.ml.training_knowledge import TrainingKnowledge
from bench.quality.code_tokens import train_code_tokens
from bench.quality.datasets import Material, material_for_choosing, material_for_report
from bench.quality.scoring import scope_threshold, score_part, score_scope
from bench.quality.variants import ANSWER_FORMAT, CODE_LEARNING_RATE, CODE_TOKENS, spec_of, teachers_of
from bench.train.report import versions
from worker.assignment import OUTPUT, Assignment
from worker.child import finetune_rows
from worker.child_inputs import load_base
from worker.evaluation_child import Examined, answer_rows, examine
from worker.line import SilentLine
from worker.messages import Finished, Message, Note, Refused

_QUESTIONS_AT_ONCE = 64
_SCOPE_MAY_COST = 0.005


@dataclass(frozen=True)
class RunRequest:
    """One variant, seed and data set."""

    data_set: str
    variant: str
    overrides: Mapping[str, Any]
    seed: int
    is_report: bool
    decisions: str = ""
    """Ways of `decide_by`, with commas between, in which the parts are answered once more, as parts of their own."""

    @property
    def key(self) -> str:
        """What tells a run from the others in a file of results."""
        mode = "report" if self.is_report else "choose"
        return f"{mode}/{self.data_set}/{self.variant}/{self.seed}"


class _PrintedNotes(SilentLine):
    """Shows what a job would note."""

    def say(self, message: Message) -> None:
        if isinstance(message, Note):
            print(f"  {message.text}", flush=True)


def run_once(request: RunRequest, *, data: Path, model: Path, threads: int | None = None) -> dict[str, Any]:
    """Trains, answers every scored part, and returns one line of results.

    Raises:
        RuntimeError: the training was refused.
        ValueError: code tokens are to have teachers, or to be decided in another way.
    """
    make = material_for_report if request.is_report else material_for_choosing
    material = make(request.data_set, data)
    if request.overrides.get(ANSWER_FORMAT) == CODE_TOKENS:
        return _run_with_code_tokens(request, material, model, threads)
    at_start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        teachers = [
            _train_teacher(replace(request, seed=seed, overrides=overrides), material, model, threads, folder / f"teacher-{seed}")
            for seed, overrides in teachers_of(request.overrides).items()
        ]
        assignment = replace(_assignment(request, model, threads), teachers=teachers)
        began = time.monotonic()
        calibration = None if material.calibration is None else list(material.calibration)
        ending = finetune_rows(assignment, list(material.training), calibration, folder, _PrintedNotes())
        if not isinstance(ending, Finished):
            raise RuntimeError(ending.message if isinstance(ending, Refused) else "the training stopped")
        adapter = folder / OUTPUT / "adapter"
        trained_s = time.monotonic() - began
        examined = _examined(request, assignment, adapter, ending.result["checksum"], folder, material)
        parts = {name: answer_part(examined, rows) for name, rows in material.scored.items()}
        scope = _scope(partial(answer_part, examined), material, parts)
        for decision in filter(None, request.decisions.split(",")):
            asked = replace(examined, wishes={"decide_by": decision})
            parts |= {f"{name} by {decision}": answer_part(asked, rows) for name, rows in material.scored.items()}
        answered_s = time.monotonic() - began - trained_s
        card = read_card(adapter)
    metrics = ending.result["metrics"]
    return _line(
        request,
        material,
        parts,
        scope,
        base=examined.engine.base,
        calibration=card.calibration,
        train_loss=metrics["train_loss"],
        train_seconds=metrics["train_seconds"],
        seconds={"job": round(trained_s, 1), "answers": round(answered_s, 1), "teachers": round(began - at_start, 1)},
    )


def _run_with_code_tokens(request: RunRequest, material: Material, model: Path, threads: int | None) -> dict[str, Any]:
    if request.decisions:
        raise ValueError("Code tokens are answered greedily: leave --decisions out.")
    spec, began = spec_of(request.overrides), time.monotonic()
    base = load_base(_assignment(request, model, threads), precision=spec.precision)
    rate = request.overrides.get(CODE_LEARNING_RATE)
    trained = train_code_tokens(base, material.training, spec, seed=request.seed, code_learning_rate=rate)
    trained = trained.calibrated(material.calibration)
    trained_s = time.monotonic() - began
    parts = {name: trained.answer(rows) for name, rows in material.scored.items()}
    scope = _scope(trained.answer, material, parts)
    answered_s = time.monotonic() - began - trained_s
    return _line(
        request,
        material,
        parts,
        scope,
        base=trained.base,
        calibration=trained.calibration,
        train_loss=trained.train_loss,
        train_seconds=trained.train_seconds,
        seconds={"job": round(trained_s, 1), "answers": round(answered_s, 1), "teachers": 0.0},
    )


def _line(
    request: RunRequest,
    material: Material,
    parts: Mapping[str, Sequence[EvaluatedRow]],
    scope: Mapping[str, Any] | None,
    *,
    base: LoadedModel,
    calibration: Calibration | None,
    train_loss: float,
    train_seconds: float,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "key": request.key,
        "data_set": request.data_set,
        "variant": request.variant,
        "seed": request.seed,
        "mode": "report" if request.is_report else "choose",
        "overrides": dict(request.overrides),
        "rows": len(material.training),
        "calibration_rows": 0 if material.calibration is None else len(material.calibration),
        "verbatim": dict(material.verbatim),
        "train_loss": train_loss,
        "train_seconds": train_seconds,
        "seconds": dict(seconds),
        "temperature": None if calibration is None else calibration.temperature,
        "is_calibrated": calibration is not None and calibration.is_calibrated,
        "device": device_facts(base.device).name,
        "precision": base.precision,
        "versions": versions(),
        "parts": {name: score_part(rows) for name, rows in parts.items()},
        "scope": scope,
    }


def _train_teacher(request: RunRequest, material: Material, model: Path, threads: int | None, folder: Path) -> str:
    folder.mkdir()
    assignment = _assignment(request, model, threads)
    if not isinstance(finetune_rows(assignment, list(material.training), None, folder, _PrintedNotes()), Finished):
        raise RuntimeError("a teacher's training was refused or stopped")
    return str(folder / OUTPUT / "adapter")


def answer_part(examined: Examined, rows: Sequence[Example]) -> list[EvaluatedRow]:
    """Answers rows as an evaluation does."""
    answered: list[EvaluatedRow] = []
    for start in range(0, len(rows), _QUESTIONS_AT_ONCE):
        answered += answer_rows(examined, rows[start : start + _QUESTIONS_AT_ONCE])
    return answered


def _assignment(request: RunRequest, model: Path, threads: int | None) -> Assignment:
    return Assignment(
        kind="finetune",
        base_model=model.name,
        base_model_folder=str(model),
        base_model_checksum=json.loads((model / MANIFEST).read_text())["checksum"],
        dataset="",
        dataset_checksum="",
        validation=None,
        spec=spec_of(request.overrides).to_mapping(),
        seed=request.seed,
        resume_from=None,
        adapter_folder=None,
        adapter_checksum=None,
        max_rows=None,
        threads=threads,
    )


def _examined(
    request: RunRequest, assignment: Assignment, adapter: Path, checksum: str, folder: Path, material: Material
) -> Examined:
    asked = replace(assignment, kind="evaluation", adapter_folder=str(adapter), adapter_checksum=checksum, spec={})
    examined = examine(asked, folder, load_base(asked, precision=spec_of(request.overrides).precision), [])
    return replace(examined, training=TrainingKnowledge.of_rows(material.training, examined.wrapper))


def _scope(
    answer: Callable[[Sequence[Example]], list[EvaluatedRow]], material: Material, parts: Mapping[str, list[EvaluatedRow]]
) -> dict[str, Any] | None:
    if material.name != "clinc150" or material.calibration is None:
        return None
    threshold = scope_threshold(answer(material.calibration), may_cost=_SCOPE_MAY_COST)
    return {name: score_scope(rows, threshold) for name, rows in parts.items()}
