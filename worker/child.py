"""The training process: `python -m worker.child FOLDER FENCE`, one fresh interpreter a job. The only torch in the worker.

Knows files and messages, no database and no broker. The fence stands in its command line, so that an operator sees it.
"""

import dataclasses
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.durable import is_disk_full, seal_folder
from app.errors import AppError
from app.ml.adapter_card import AdapterCard, write_card
from app.ml.best_epoch import find_best
from app.ml.codes import AnswerGrammar
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.answering_in_training import AdapterInTraining
from app.ml.engine.batching import tokenize_examples
from app.ml.engine.checkpointing import TrainState
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.device import device_facts, memory_limit_bytes
from app.ml.engine.evaluating import HeldOut, prepare_held_out, score_generated
from app.ml.engine.fresh_rows import fresh_rows
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import save_adapter
from app.ml.engine.ranks import join_ranks
from app.ml.engine.solved_questions import bound_renderer
from app.ml.engine.teaching import ask_teachers
from app.ml.engine.training import Progress, TrainPlan, TrainResult, Wish, train
from app.ml.errors import DatasetFormatError
from app.ml.estimates import check_smallest_run, check_spec_against_base
from app.ml.formats.example import Example
from app.ml.metrics import AnswerScores
from app.ml.plots import loss_csv, loss_png
from app.ml.prompting import PromptRenderer
from app.ml.spec import FinetuneSpec, spec_from_mapping
from app.parent_death import die_with_parent
from worker.assignment import OUTPUT, Assignment, read_assignment
from worker.child_inputs import begin_card, in_code_order, learn_companions, load_base, read_stored, some_rows
from worker.confidence import Confidence, observe_adapter
from worker.evaluation_child import evaluate
from worker.export_child import export
from worker.line import Line, SilentLine
from worker.messages import (
    DISK_FULL_EXIT,
    MESSAGE_FD_VARIABLE,
    Advanced,
    CheckpointWritten,
    Evaluated,
    Finished,
    Message,
    Note,
    Refused,
    Started,
    Stopped,
)
from worker.ranks import follow, is_follower, start_followers

# Time for confidences: a tenth of the training's, and for short trainings a little more.
_OBSERVING_SHARE, _OBSERVING_S = 0.1, 5.0


@dataclasses.dataclass(frozen=True)
class LineHooks:
    """Training hooks that send messages."""

    line: Line

    def on_start(self, *, trainable_parameters: int, total_steps: int, resumed_from_step: int) -> None:
        """Tells the run's size."""
        self.line.say(
            Started(
                {
                    "trainable_parameters": trainable_parameters,
                    "total_steps": total_steps,
                    "resumed_from_step": resumed_from_step,
                }
            )
        )

    def on_note(self, message: str) -> None:
        """Passes a note on."""
        self.line.say(Note(message))

    def on_progress(self, progress: Progress) -> None:
        """Passes progress on."""
        self.line.say(Advanced(progress.to_mapping()))

    def on_evaluation(self, state: TrainState) -> None:
        """Passes the scores on."""
        self.line.say(Evaluated(state.evaluations))

    def on_checkpoint(self, folder: Path, checksum: str, state: TrainState) -> None:
        """Hands a checkpoint over, with the scores of its epoch where it stands at an epoch's end."""
        metrics = {"step": state.step, "train_loss": state.losses[-1]["loss"]}
        if state.evaluations and state.evaluations[-1]["step"] == state.step:
            metrics |= state.evaluations[-1]
        self.line.say(CheckpointWritten(str(folder), state.step, checksum, metrics))

    def wish(self) -> Wish:
        """Returns what the supervisor wants."""
        return self.line.wish()


def finetune(assignment: Assignment, folder: Path, line: Line) -> Message:
    """Reads the rows, trains, and leaves the adapter and the loss curve in the output folder."""
    examples = some_rows(read_stored(assignment.dataset), "training_file")
    held_out = None if assignment.validation is None else some_rows(read_stored(assignment.validation), "validation_file")
    return finetune_rows(assignment, examples, held_out, folder, line)


def finetune_rows(
    assignment: Assignment, examples: list[Example], held_out_examples: list[Example] | None, folder: Path, line: Line
) -> Message:
    """Trains on rows, scores the held-out ones, and leaves the adapter and the loss curve in the output folder."""
    spec = spec_from_mapping(assignment.spec)
    # Checked when the job was posted too; since then the base model may have been imported anew.
    shapes = check_spec_against_base(Path(assignment.base_model_folder), spec)
    examples = in_code_order(examples[: spec.max_samples], spec)
    base = load_base(assignment, precision=spec.precision)
    line.say(Note(f"Training on {device_facts(base.device).name} in {base.precision}."))
    card = dataclasses.replace(begin_card(assignment, spec, examples, base), versions=_versions())
    vocabulary = card.vocabulary
    base = dataclasses.replace(base, tokenizer=card.tokenizer_on(base.tokenizer))
    grammar = _answer_grammar(card, base)
    companions, augmentation = learn_companions(examples, card)
    if companions.classifier is not None:
        line.say(Note(f"Every answer is one code of {len(vocabulary.codes)}: a linear classifier has a say in answers."))
    renderer = bound_renderer(card.renderer, companions.index, vocabulary)
    rows, dropped = tokenize_examples(examples, renderer, base.tokenizer, cutoff_len=spec.cutoff_len, are_trained=True)
    if dropped:
        line.say(Note(f"{dropped} row(s) do not fit into cutoff_len = {spec.cutoff_len} tokens and were left out."))
    if (limit := memory_limit_bytes(base.device)) is not None:
        longest = max(len(row.prompt) + len(row.answer) for row in rows)
        check_smallest_run(shapes, spec, limit, row_tokens=longest)
    held_out = None
    if held_out_examples is not None:
        adapter = AdapterInTraining(companions, folder)
        held_out = _held_out(in_code_order(held_out_examples, spec), adapter, renderer, base, grammar, line)
    soft = None
    if assignment.teachers:
        line.say(Note(f"Asking {len(assignment.teachers)} adapter(s) about the training rows."))
        soft = ask_teachers(
            base,
            [Path(teacher) for teacher in assignment.teachers],
            examples,
            ChoiceTable(grammar),
            cutoff_len=spec.cutoff_len,
            temperature=spec.distill_temperature,
            is_cut_short=lambda: line.wish() is not Wish.NONE,
        )
        if soft is None:
            return Stopped()
    is_scored_by_epoch = held_out is not None and spec.eval_strategy == "epoch"
    plan = TrainPlan(
        spec,
        rows,
        assignment.seed,
        folder / "checkpoints",
        Path(assignment.resume_from) if assignment.resume_from else None,
        held_out=held_out if is_scored_by_epoch else None,
        # Held-out rows are observed at the end, and answered once more unless the epoch's scores are those of all rows.
        saves_last=held_out is not None,
        grammar=grammar,
        fresh_rows=fresh_rows(examples, renderer, base.tokenizer, augmentation, seed=assignment.seed),
        soft=soft,
    )
    # After the weights: transformers takes over the loading where it finds a process group.
    ranks = join_ranks(base.device)
    if ranks.size > 1:
        line.say(Note(f"Training on {ranks.size} devices."))
    result = train(base, plan, LineHooks(line), ranks)
    ranks.leave()
    if result.stopped is not Wish.NONE or not ranks.is_first:
        return Stopped()
    validation = None
    if held_out is not None:
        validation = _final_scores(base, result, held_out, line)
        if validation is None:
            return Stopped()
    losses = result.state.losses
    metrics: dict[str, Any] = {
        "train_loss": _mean_of_last_epoch(losses),
        "train_seconds": round(result.state.seconds, 2),
        "train_samples_per_s": round(len(rows) * losses[-1]["epoch"] / max(result.state.seconds, 1e-9), 2),
        "trainable_parameters": result.trainable_parameters,
        "rows": len(rows),
    }
    if validation is not None:
        metrics["validation"] = validation
    if result.state.evaluations:
        metrics["by_epoch"] = result.state.evaluations
        metrics["best"] = _best(spec, result)
    card = dataclasses.replace(companions.card, metrics=metrics)
    unsealed = folder / "unsealed"
    unsealed.mkdir()
    save_adapter(result.network, unsealed)
    dataclasses.replace(companions, card=card).save(unsealed)
    confidence = _observed(held_out_examples, base, result, unsealed, examples, renderer, line)
    if confidence is None:
        return Stopped()
    metrics |= confidence.to_metrics()
    write_card(
        unsealed,
        dataclasses.replace(card, metrics=metrics, calibration=confidence.calibration, novelty=confidence.novelty),
    )
    checksum = seal_folder(unsealed, about={"base_model": assignment.base_model})
    output = folder / OUTPUT
    output.mkdir()
    unsealed.rename(output / "adapter")
    (output / "loss.csv").write_bytes(loss_csv(losses))
    (output / "loss.png").write_bytes(
        loss_png(losses, title=f"{assignment.base_model}, {len(rows)} rows, seed {assignment.seed}")
    )
    return Finished({"checksum": checksum, "metrics": metrics, "trained_tokens": result.state.trained_tokens})


def _answer_grammar(card: AdapterCard, base: LoadedModel) -> AnswerGrammar:
    """Builds the grammar before any training: codes that this tokenizer cannot tell apart are the data's fault."""
    try:
        return card.grammar_on(base.tokenizer)
    except ValueError as error:
        raise DatasetFormatError(f"The codes cannot be told apart as tokens of {base.name}: {error}.", param="output") from error


def _held_out(
    examples: list[Example],
    adapter: AdapterInTraining,
    renderer: PromptRenderer,
    base: LoadedModel,
    grammar: AnswerGrammar,
    line: Line,
) -> HeldOut:
    cutoff_len = adapter.companions.card.spec.cutoff_len
    held_out, left_out = prepare_held_out(examples, renderer, base, grammar, cutoff_len=cutoff_len, adapter=adapter)
    if left_out:
        line.say(Note(f"{left_out} held-out row(s) have answers longer than cutoff_len and do not count in eval_loss."))
    return held_out


def _final_scores(base: LoadedModel, result: TrainResult, held_out: HeldOut, line: Line) -> dict[str, Any] | None:
    """Returns the published adapter's scores on every held-out row; None where a wish came between."""
    if result.scores is not None and result.scores["rows"] == len(held_out.prompts):
        return {field.name: result.scores[field.name] for field in dataclasses.fields(AnswerScores)}
    scores = score_generated(base, result.network, held_out, is_cut_short=lambda: line.wish() is not Wish.NONE)
    return None if scores is None else scores.to_mapping()


def _observed(
    held_out: list[Example] | None,
    base: LoadedModel,
    result: TrainResult,
    unsealed: Path,
    examples: list[Example],
    renderer: PromptRenderer,
    line: Line,
) -> Confidence | None:
    """Returns what the held-out rows say of the adapter's confidence; None where a wish came between."""
    if held_out is None:
        return Confidence()
    # Answered as the answerer will: the saved adapter, on the bare base model.
    base.network = result.network.unload()
    return observe_adapter(
        AnswerEngine(base, most_adapters=1),
        unsealed,
        examples=examples,
        held_out=held_out,
        renderer=renderer,
        budget_s=_OBSERVING_SHARE * result.state.seconds + _OBSERVING_S,
        line=line,
    )


def _best(spec: FinetuneSpec, result: TrainResult) -> dict[str, Any]:
    place = find_best(result.state.evaluations, spec.metric_for_best_model)
    assert place is not None
    best = result.state.evaluations[place]
    return {
        "epoch": best["epoch"],
        "step": best["step"],
        "metric": spec.metric_for_best_model,
        "value": best[spec.metric_for_best_model],
        "is_published": result.scores is not None and result.scores["step"] == best["step"],
    }


def _mean_of_last_epoch(losses: list[dict[str, float]]) -> float:
    last = [entry["loss"] for entry in losses if entry["epoch"] > losses[-1]["epoch"] - 1]
    return round(sum(last) / len(last), 4)


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")}
    return {"python": platform.python_version(), **packages}


_WORK: Mapping[str, Callable[[Assignment, Path, Line], Message]] = {
    "finetune": finetune,
    "evaluation": evaluate,
    "export": export,
}


def main(arguments: list[str]) -> int:
    """Runs one assignment; exit code 0 whenever the last message says how it ended."""
    folder = Path(arguments[0])
    assignment = read_assignment(folder)
    line: Line
    if is_follower():
        follow()
        line = SilentLine()
    else:
        die_with_parent(assignment.parent_pid, signal.SIGTERM)
        line = Line(int(os.environ[MESSAGE_FD_VARIABLE]))
        line.listen()
        if assignment.kind == "finetune" and assignment.devices > 1:
            start_followers(folder, arguments[1], assignment.devices)
    try:
        line.say(_WORK[assignment.kind](assignment, folder, line))
    except AppError as error:
        line.say(Refused(error.code, error.message, error.param))
    except Exception as error:
        # Not the user's doing: the log has the story, the supervisor sees the exit code and tries again.
        traceback.print_exc()
        return DISK_FULL_EXIT if is_disk_full(error) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
