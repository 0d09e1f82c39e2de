"""The evaluation, inside the child: answers every row that is left, tells the rows as they come, and measures all of them."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.answers.backend import AnswerResult, Candidate, ConfidentCode
from app.answers.fallback import fallback_reason
from app.ml.adapter_card import AdapterCard, read_card
from app.ml.codes import DecideBy
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.asks import MAX_ALTERNATIVES, Ask, EngineAnswer
from app.ml.engine.device import device_facts
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from app.ml.engine.question_index import MAX_INDEXED_QUESTIONS, find_question_index
from app.ml.engine.training import Wish
from app.ml.errors import DatasetFormatError, PromptTooLong
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.evaluation_metrics import measure
from app.ml.formats.example import Example
from app.ml.prompting import Wrapper
from app.ml.spec import spec_from_mapping
from app.ml.training_knowledge import TrainingKnowledge
from worker.assignment import Assignment
from worker.child_inputs import begin_card, in_code_order, learn_companions, load_base, read_stored, some_rows
from worker.messages import Advanced, Answered, Finished, Message, Started, Stopped

if TYPE_CHECKING:
    from worker.line import Line

_QUESTIONS_AT_ONCE, _QUESTIONS_AT_ONCE_ON_GPU = 16, 64
# What a kill may cost, in seconds of answers.
_TELL_EVERY_S = 1.0


@dataclass(frozen=True)
class Examined:
    """A model in memory, and what is known of it."""

    engine: AnswerEngine
    adapter: str | None
    """Its name in the engine; None: the base model alone."""
    known_codes: frozenset[str]
    """Codes that exist: the adapter's, or for a base model those of the file."""
    wrapper: Wrapper
    training: TrainingKnowledge | None
    is_calibrated: bool
    wishes: Mapping[str, Any]
    """The evaluation's plan: `threshold`, `precision`, and `decide_by` over the widest beam."""

    @property
    def decide_by(self) -> DecideBy:
        """What the best of a beam's answers is; a benchmark may wish for nothing."""
        wished: DecideBy = self.wishes.get("decide_by", "answer")
        return wished


def evaluate(assignment: Assignment, folder: Path, line: "Line") -> Message:
    """Answers the rows that earlier attempts left, and returns the metrics of all rows."""
    examples = some_rows(read_stored(assignment.dataset), "file")[: assignment.max_rows]
    base = load_base(assignment, precision="auto")
    examined = examine(assignment, folder, base, examples)
    rows = _rows_of_before(assignment)
    done = {row.row for row in rows}
    left = [example for example in examples if example.row not in done]
    at_once = _QUESTIONS_AT_ONCE if base.device.type == "cpu" else _QUESTIONS_AT_ONCE_ON_GPU
    line.say(Started({"rows": len(examples), "answered_before": len(rows)}))
    began, told, untold = time.monotonic(), time.monotonic(), len(rows)
    for start in range(0, len(left), at_once):
        rows += answer_rows(examined, left[start : start + at_once])
        is_asked_to_stop = line.wish() is not Wish.NONE
        if is_asked_to_stop or len(rows) == len(examples) or time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            line.say(Answered([row.to_mapping() for row in rows[untold:]]))
            line.say(Advanced({"step": len(rows), "total_steps": len(examples)}))
            untold = len(rows)
        if is_asked_to_stop:
            return Stopped()
    seconds = time.monotonic() - began
    facts = {
        "answers_per_s": len(left) / seconds if left else None,
        "questions_at_once": at_once,
        "device": device_facts(base.device).name,
        "arithmetic": base.precision,
        # What was found out of single orders of codes promises nothing of sets.
        "is_calibrated": examined.is_calibrated and examined.decide_by == "answer",
        "training_known_from": None if examined.training is None else examined.training.source,
    }
    return Finished({"metrics": measure(sorted(rows, key=lambda row: row.row)) | facts})


def answer_rows(examined: Examined, examples: Sequence[Example]) -> list[EvaluatedRow]:
    """Answers rows together, each timed by itself.

    Raises:
        DatasetFormatError: a question is longer than the answerer takes.
    """
    engine, precision = examined.engine, examined.wishes.get("precision")
    decide_by = examined.decide_by
    alternatives = 0 if decide_by == "answer" else MAX_ALTERNATIVES
    ended: dict[int, float] = {}
    started, futures = [], []
    for place, example in enumerate(examples):
        started.append(time.perf_counter())
        try:
            ask = Ask(example.question, examined.adapter, alternatives, precision=precision, decide_by=decide_by)
            future = engine.submit(ask)
        except PromptTooLong as error:
            raise DatasetFormatError(f"Row {example.row} of the file: {error.message}", param="file") from error
        future.add_done_callback(_stamp(ended, place))
        futures.append(future)
    while engine.has_work:
        engine.step()
    return [
        _evaluated(examined, example, future.result(), latency_ms=1000 * (ended[place] - started[place]))
        for place, (example, future) in enumerate(zip(examples, futures, strict=True))
    ]


def _stamp(ended: dict[int, float], place: int) -> Callable[[Any], None]:
    def stamp(_: Any) -> None:
        ended[place] = time.perf_counter()

    return stamp


def _evaluated(examined: Examined, example: Example, answer: EngineAnswer, *, latency_ms: float) -> EvaluatedRow:
    wishes, best = examined.wishes, answer.best
    slices = {**example.slices, "code_count": str(len(set(example.codes)))}
    if examined.training is not None:
        slices |= examined.training.slices_of(example, examined.wrapper)
    return EvaluatedRow(
        row=example.row,
        question=example.question,
        expected=example.codes,
        given=best.codes,
        code_confidences=tuple(round(value, 4) for value in best.code_confidences),
        confidence=round(best.confidence, 4),
        in_vocabulary=all(code in examined.known_codes for code in best.codes),
        fallback=fallback_reason(
            _result_of(answer), "closed", threshold=wishes.get("threshold"), precision=wishes.get("precision")
        ),
        latency_ms=round(latency_ms, 3),
        passes=answer.passes,
        slices=slices,
    )


def _result_of(answer: EngineAnswer) -> AnswerResult:
    """Says what the product would be told, so that its own rule decides on the fallback."""
    best = answer.best
    codes = zip(best.codes, best.code_confidences, answer.in_vocabulary, strict=True)
    return AnswerResult(
        best=Candidate(tuple(ConfidentCode(*code) for code in codes), best.confidence),
        alternatives=(),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        out_of_scope=answer.out_of_scope,
        precision_threshold=answer.precision_threshold,
    )


def examine(assignment: Assignment, folder: Path, base: LoadedModel, examples: Sequence[Example]) -> Examined:
    """Brings the model that an assignment names into memory, on a loaded base model."""
    engine = AnswerEngine(base, most_adapters=1)
    if assignment.adapter_folder is None:
        codes = frozenset(code for example in examples for code in example.codes)
        return Examined(engine, None, codes, Wrapper(), None, False, assignment.spec)
    if assignment.adapter_checksum is None:
        adapter, place = "checkpoint", folder / "checkpoint"
        write_adapter_of_checkpoint(assignment, Path(assignment.adapter_folder), place, base)
        engine.load_unsealed(adapter, place)
    else:
        adapter, place = assignment.adapter_checksum, Path(assignment.adapter_folder)
        engine.load(adapter, place)
    card = read_card(place)
    training = _training_of(assignment, card, place)
    is_calibrated = card.calibration is not None and card.calibration.is_calibrated
    codes = frozenset(card.vocabulary.codes)
    return Examined(engine, adapter, codes, card.wrapper, training, is_calibrated, assignment.spec)


def write_adapter_of_checkpoint(assignment: Assignment, checkpoint: Path, target: Path, base: LoadedModel) -> None:
    """Makes an adapter's folder of a checkpoint's weights and the training's spec and rows, as the end of a training does."""
    assert assignment.training is not None
    spec = spec_from_mapping(assignment.spec["training_spec"])
    examples = in_code_order(some_rows(read_stored(assignment.training), "model")[: spec.max_samples], spec)
    target.mkdir()
    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        shutil.copy(checkpoint / name, target / name)
    companions, _ = learn_companions(examples, begin_card(assignment, spec, examples, base))
    companions.save(target)


def _training_of(assignment: Assignment, card: AdapterCard, place: Path) -> TrainingKnowledge | None:
    if assignment.training is not None:
        rows = read_stored(assignment.training)[: card.spec.max_samples]
        return TrainingKnowledge.of_rows(rows, card.wrapper)
    index = find_question_index(place)
    # Of more questions it holds a part, and an answer that it lacks may have been trained all the same.
    if index is None or index.answer_starts[-1] >= MAX_INDEXED_QUESTIONS:
        return None
    trained = [answer for answer, rows in zip(index.answers, index.frequencies.tolist(), strict=True) if rows]
    return TrainingKnowledge.of_index(trained, card.vocabulary)


def _rows_of_before(assignment: Assignment) -> list[EvaluatedRow]:
    if assignment.answered is None:
        return []
    return [EvaluatedRow.from_mapping(json.loads(text)) for text in Path(assignment.answered).read_text().splitlines()]
