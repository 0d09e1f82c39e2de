"""A training process with held-out rows: what it tells, what it publishes, and how it is paused."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.durable import verify_folder
from app.ml.engine import epoch_evaluation
from app.ml.engine.training import Wish
from app.ml.spec import resolve_spec
from tests.fixtures.queue import insert_job, must_claim, read_events, read_job
from tests.fixtures.tiny import TINY, write_tiny_model
from tests.worker.assignments import training_assignment
from worker.assignment import Assignment
from worker.child import finetune
from worker.line import Line
from worker.messages import CheckpointWritten, Evaluated, Finished, Message, Note, Stopped
from worker.recipe import note_message

ANSWERS = ("开通方式_1|9.9", "取消方式_2")
ROWS = [{"instruction": f"问题{row}", "output": ANSWERS[row % 2]} for row in range(8)]


@dataclass
class ListeningLine(Line):
    """Keeps what is said; wishes what the test wants from the n-th question on."""

    wish_from: tuple[int, Wish] | None = None
    said: list[Message] = field(default_factory=list)
    asked: int = 0

    def say(self, message: Message) -> None:
        self.said.append(message)

    def wish(self) -> Wish:
        self.asked += 1
        return self.wish_from[1] if self.wish_from is not None and self.asked >= self.wish_from[0] else Wish.NONE

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]


def assignment_in(folder: Path, *, resume_from: str | None = None, held_out: int = 8, **hyperparameters: Any) -> Assignment:
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "held_out.json").write_text(json.dumps(ROWS[:held_out]))
    asked = {"preset": "quick", "lora_rank": 4, "batch_size": 4, "n_epochs": 3, "precision": "fp32", **hyperparameters}
    base = write_tiny_model(folder / "models" / TINY)
    return training_assignment(
        base, folder / "rows.json", resolve_spec(asked), validation=folder / "held_out.json", resume_from=resume_from
    )


def losses(folder: Path) -> str:
    return (folder / "output" / "loss.csv").read_text()


def test_each_epoch_is_told_and_stands_in_the_metrics_and_in_the_checkpoints(tmp_path: Path) -> None:
    line = ListeningLine()
    ending = finetune(assignment_in(tmp_path / "run"), tmp_path / "run", line)
    assert isinstance(ending, Finished)
    metrics = ending.result["metrics"]
    by_epoch = metrics["by_epoch"]
    assert [(entry["epoch"], entry["step"], entry["rows"]) for entry in by_epoch] == [(1, 2, 8), (2, 4, 8), (3, 6, 8)]
    assert [len(told.by_epoch) for told in line.of(Evaluated)] == [3, 3, 3], "the one list that grows"
    assert [written.metrics["exact_match"] for written in line.of(CheckpointWritten)] == [
        entry["exact_match"] for entry in by_epoch
    ], "the last one too, because long work follows"
    # Every held-out row was answered after the last epoch: not once more.
    assert metrics["validation"] == {name: by_epoch[-1][name] for name in metrics["validation"]}
    assert metrics["best"]["metric"] == "exact_match"


def test_more_rows_than_an_epoch_answers_are_all_answered_at_the_end(tmp_path: Path) -> None:
    line = ListeningLine()
    ending = finetune(assignment_in(tmp_path / "run", eval_max_rows=3), tmp_path / "run", line)
    assert isinstance(ending, Finished)
    assert {entry["rows"] for entry in ending.result["metrics"]["by_epoch"]} == {3}
    assert ending.result["metrics"]["validation"]["rows"] == 8
    assert line.of(CheckpointWritten)[-1].step == 6, "the answers at the end are long work, too"


def test_without_evaluations_between_the_adapter_is_scored_at_the_end(tmp_path: Path) -> None:
    ending = finetune(assignment_in(tmp_path / "run", eval_strategy="no"), tmp_path / "run", ListeningLine())
    assert isinstance(ending, Finished)
    metrics = ending.result["metrics"]
    assert metrics["validation"]["rows"] == 8
    assert not {"by_epoch", "best"} & set(metrics)


@pytest.mark.parametrize("hyperparameters", [{"eval_max_rows": 3}, {"eval_strategy": "no"}], ids=str)
def test_a_pause_while_the_last_rows_are_answered_keeps_what_was_trained(tmp_path: Path, hyperparameters: dict[str, Any]) -> None:
    calm = ListeningLine()
    whole = finetune(assignment_in(tmp_path / "calm", **hyperparameters), tmp_path / "calm", calm)
    assert isinstance(whole, Finished)
    # The last question of all is asked after the last batch of answers.
    paused = ListeningLine(wish_from=(calm.asked, Wish.SAVE_AND_STOP))
    assert finetune(assignment_in(tmp_path / "one", **hyperparameters), tmp_path / "one", paused) == Stopped()
    written = paused.of(CheckpointWritten)[-1]
    assert (written.step, verify_folder(Path(written.folder))) == (6, written.checksum)

    again = ListeningLine()
    ending = finetune(assignment_in(tmp_path / "two", resume_from=written.folder, **hyperparameters), tmp_path / "two", again)
    assert isinstance(ending, Finished)
    assert losses(tmp_path / "two") == losses(tmp_path / "calm")
    assert ending.result["metrics"]["validation"] == whole.result["metrics"]["validation"]
    assert (again.of(CheckpointWritten), again.of(Evaluated)) == ([], [])


def test_a_job_over_choices_learns_from_the_adapters_of_others_and_publishes_an_average(tmp_path: Path) -> None:
    teacher = assignment_in(tmp_path / "teacher", template="default")
    assert isinstance(finetune(teacher, tmp_path / "teacher", ListeningLine()), Finished)
    asked = {"loss_over": "allowed", "distill_from": ["telecom:1"], "ema_decay": 0.5, "focal_gamma": 1.0}
    learner = replace(
        assignment_in(tmp_path / "run", label_smoothing_factor=0.1, **asked),
        teachers=[str(tmp_path / "teacher" / "output" / "adapter")],
    )
    line = ListeningLine()
    ending = finetune(learner, tmp_path / "run", line)
    assert isinstance(ending, Finished)
    assert "Asking 1 adapter(s) about the training rows." in [note.text for note in line.of(Note)]
    assert ending.result["metrics"]["validation"]["rows"] == 8


def test_a_job_that_is_stopped_while_it_asks_adapters_has_nothing_to_keep(tmp_path: Path) -> None:
    assert isinstance(finetune(assignment_in(tmp_path / "teacher"), tmp_path / "teacher", ListeningLine()), Finished)
    asked = assignment_in(tmp_path / "run", loss_over="allowed", distill_from=["telecom:1"])
    asked = replace(asked, teachers=[str(tmp_path / "teacher" / "output" / "adapter")])
    line = ListeningLine(wish_from=(1, Wish.SAVE_AND_STOP))
    assert finetune(asked, tmp_path / "run", line) == Stopped()
    assert line.of(CheckpointWritten) == []


def test_a_cancel_while_the_last_rows_are_answered_publishes_nothing(tmp_path: Path) -> None:
    calm = ListeningLine()
    finetune(assignment_in(tmp_path / "calm", eval_strategy="no"), tmp_path / "calm", calm)
    line = ListeningLine(wish_from=(calm.asked, Wish.STOP))
    assert finetune(assignment_in(tmp_path / "run", eval_strategy="no"), tmp_path / "run", line) == Stopped()
    assert not (tmp_path / "run" / "output").exists()


@pytest.mark.parametrize("is_asked", [True, False])
def test_the_metrics_say_which_epoch_was_best_and_whether_it_is_the_one_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    told = iter([0.2, 0.7, 0.4])

    def evaluate(*_: Any, **__: Any) -> dict[str, Any]:
        scores = {"exact_match": next(told), "ordered_match": 0.0, "set_f1": 0.0, "micro_f1": 0.0, "invalid_rate": 0.0}
        return {"rows": 8, "eval_loss": 1.0, **scores}

    monkeypatch.setattr(epoch_evaluation, "evaluate", evaluate)
    ending = finetune(assignment_in(tmp_path / "run", load_best_model_at_end=is_asked), tmp_path / "run", ListeningLine())
    assert isinstance(ending, Finished)
    metrics = ending.result["metrics"]
    assert metrics["best"] == {"epoch": 2, "step": 4, "metric": "exact_match", "value": 0.7, "is_published": is_asked}
    assert metrics["validation"]["exact_match"] == (0.7 if is_asked else 0.4)


def test_scores_stand_in_the_running_jobs_metrics_and_in_its_story(engine: Engine) -> None:
    job_id = insert_job(engine)
    lease = must_claim(engine)
    scores = {"exact_match": 0.5, "set_f1": 0.75, "invalid_rate": 0.0, "eval_loss": 1.25, "rows": 8}
    by_epoch = [{"epoch": 1.0, "step": 2, **scores}, {"epoch": 1.5, "step": 3, **scores}]
    note_message(_context(engine), lease, Evaluated(by_epoch))  # type: ignore[arg-type]
    assert read_job(engine, job_id).metrics == {"by_epoch": by_epoch}
    event = read_events(engine, job_id)[-1]
    assert (event.type, event.data) == ("metrics", by_epoch[-1])
    assert event.message == ("Epoch 1.5 on 8 held-out rows: exact match 0.5000, set F1 0.7500, invalid 0.0000, loss 1.2500")


def _context(engine: Engine) -> Any:
    @dataclass
    class OnlyAnEngine:
        engine: Engine

    return OnlyAnEngine(engine)
