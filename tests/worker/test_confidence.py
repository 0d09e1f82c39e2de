"""A training process with held-out rows that it was not trained on: what its adapter knows of its own confidence."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.durable import verify_folder
from app.ml.adapter_card import AdapterCard, read_card
from app.ml.calibration import MIN_CALIBRATION_ROWS, SHOWN_PRECISIONS
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.lora import ADAPTER_WEIGHTS
from app.ml.engine.novelty import REFERENCES, find_references
from app.ml.engine.question_index import QUESTIONS, find_question_index
from app.ml.engine.training import Wish
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from tests.app.ml.engine.training_help import load
from tests.worker.test_validated_run import ANSWERS, ListeningLine, assignment_in
from worker.assignment import Assignment
from worker.child import finetune
from worker.confidence import Confidence, observe_adapter
from worker.messages import CheckpointWritten, Finished, Note, Stopped

TRAINED = [f"请问{number}号业务怎么{verb}" for number in range(40) for verb in ("开通", "取消")]
UNTRAINED = [f"请问{number}号业务如何{verb}呢" for number in range(60) for verb in ("开通", "取消")]


def rows(questions: list[str]) -> list[dict[str, str]]:
    return [{"instruction": question, "output": ANSWERS["取消" in question]} for question in questions]


def assignment(folder: Path, held_out: list[str], **hyperparameters: Any) -> Assignment:
    made = assignment_in(folder, eval_strategy="no", n_epochs=1, batch_size=16, **hyperparameters)
    (folder / "rows.json").write_text(json.dumps(rows(TRAINED)))
    (folder / "held_out.json").write_text(json.dumps(rows(held_out)))
    return made


def notes(line: ListeningLine) -> str:
    return "\n".join(note.text for note in line.of(Note))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], ListeningLine, Assignment]:
    """One finished run with 120 held-out rows: its folder, its metrics, what it said, its assignment."""
    folder, line = tmp_path_factory.mktemp("whole") / "run", ListeningLine()
    given = assignment(folder, UNTRAINED)
    ending = finetune(given, folder, line)
    assert isinstance(ending, Finished)
    return folder, ending.result["metrics"], line, given


def card_of(folder: Path) -> AdapterCard:
    return read_card(folder / "output" / "adapter")


def test_an_adapter_is_calibrated_on_its_held_out_rows(whole: Any) -> None:
    folder, metrics, line, _ = whole
    calibration = card_of(folder).calibration
    assert calibration is not None
    assert (calibration.is_calibrated, calibration.rows) == (True, len(UNTRAINED))
    assert calibration.temperature != 1.0
    right = metrics["validation"]["exact_match"] * len(UNTRAINED)
    assert calibration.curve[-1][1:] == (len(UNTRAINED), round(right))
    assert "Confidences are calibrated on 120 held-out rows" in notes(line)


def test_the_metrics_show_the_calibration(whole: Any) -> None:
    folder, metrics, _, _ = whole
    calibration = card_of(folder).calibration
    assert calibration is not None
    assert metrics["calibration"] == calibration.to_summary()
    assert [entry["precision"] for entry in metrics["calibration"]["thresholds"]] == list(SHOWN_PRECISIONS)
    assert json.loads(json.dumps(metrics)) == json.loads(json.dumps(card_of(folder).metrics))


def test_an_adapter_knows_what_its_training_questions_look_like(whole: Any) -> None:
    folder, metrics, _, _ = whole
    references, limit = find_references(folder / "output" / "adapter"), card_of(folder).novelty
    assert references is not None
    assert limit is not None
    assert references.vectors.shape == (len(TRAINED), 32)
    assert (limit.rows, limit.false_alarm_rate) == (len(UNTRAINED), 0.02)
    assert metrics["out_of_scope"] == limit.to_mapping()


def test_an_adapter_holds_an_index_of_its_training_questions(whole: Any) -> None:
    folder, _, _, _ = whole
    index, vocabulary = find_question_index(folder / "output" / "adapter"), card_of(folder).vocabulary
    assert index is not None
    best, similarity = index.nearest(TRAINED[1])[0]
    assert "|".join(vocabulary.codes[code] for code in index.answers[best]) == ANSWERS[1]
    assert similarity == pytest.approx(1.0, abs=0.021)


def test_everything_lies_under_the_seal_and_answers(whole: Any) -> None:
    folder, _, _, given = whole
    adapter = folder / "output" / "adapter"
    assert set(json.loads((adapter / "manifest.json").read_text())["files"]) >= {ADAPTER_WEIGHTS, QUESTIONS, REFERENCES}
    engine = AnswerEngine(load(BaseModelFolder(given.base_model, Path(given.base_model_folder), given.base_model_checksum)))
    checksum = verify_folder(adapter)
    engine.load(checksum, adapter)
    assert len(engine.answer(TRAINED[:2], checksum=checksum)) == 2


@pytest.mark.parametrize("wish", [Wish.SAVE_AND_STOP, Wish.STOP])
def test_a_wish_while_confidence_is_observed_is_obeyed(tmp_path: Path, whole: Any, wish: Wish) -> None:
    line = ListeningLine(wish_from=(whole[2].asked - 3, wish))
    folder = tmp_path / "run"
    assert finetune(assignment(folder, UNTRAINED), folder, line) == Stopped()
    assert not (folder / "output").exists()
    assert line.of(CheckpointWritten)[-1].step == 5, "nothing of the training is lost"


def test_a_run_paused_while_it_was_observed_ends_as_if_it_had_not(tmp_path: Path, whole: Any) -> None:
    paused = ListeningLine(wish_from=(whole[2].asked - 3, Wish.SAVE_AND_STOP))
    first, again = tmp_path / "one", tmp_path / "two"
    finetune(assignment(first, UNTRAINED), first, paused)
    ending = finetune(assignment(again, UNTRAINED, resume_from=paused.of(CheckpointWritten)[-1].folder), again, ListeningLine())
    assert isinstance(ending, Finished)
    assert card_of(again).calibration == card_of(whole[0]).calibration
    assert card_of(again).novelty == card_of(whole[0]).novelty


def test_held_out_rows_that_were_trained_on_calibrate_nothing(tmp_path: Path) -> None:
    line, folder = ListeningLine(), tmp_path / "run"
    ending = finetune(assignment(folder, TRAINED), folder, line)
    assert isinstance(ending, Finished)
    assert (card_of(folder).calibration, card_of(folder).novelty) == (None, None)
    assert ending.result["metrics"]["calibration"] is None
    assert f"{len(TRAINED)} held-out row(s) have a question of the training file" in notes(line)


def test_few_held_out_rows_promise_nothing(tmp_path: Path) -> None:
    line, folder = ListeningLine(), tmp_path / "run"
    ending = finetune(assignment(folder, UNTRAINED[: MIN_CALIBRATION_ROWS - 1]), folder, line)
    assert isinstance(ending, Finished)
    calibration = card_of(folder).calibration
    assert calibration is not None
    assert not calibration.is_calibrated
    assert card_of(folder).novelty is None
    assert not (folder / "output" / "adapter" / REFERENCES).exists()
    assert "99 held-out row(s) are too few" in notes(line)


def test_observing_keeps_to_its_time_but_calibrates(whole: Any) -> None:
    folder, _, _, given = whole
    base = load(BaseModelFolder(given.base_model, Path(given.base_model_folder), given.base_model_checksum))
    line = ListeningLine()
    held_out = [Example(row, f"{row}号业务如何取消呢", ("取消方式_2",)) for row in range(300)]
    adapter = folder / "output" / "adapter"
    found = observe_adapter(
        AnswerEngine(base),
        adapter,
        examples=[Example(row, question, ("取消方式_2",)) for row, question in enumerate(TRAINED)],
        held_out=held_out,
        renderer=card_of(folder).renderer,
        budget_s=0.0,
        line=line,
    )
    assert isinstance(found, Confidence)
    assert found.calibration is not None
    assert found.calibration.rows == 208, "the first whole batch of 16 after 200 rows"
    assert found.novelty is None
    assert "208 of 300 held-out rows" in notes(line)
    assert "16 of 80 training questions" in notes(line)


def test_without_held_out_rows_there_is_an_index_and_no_promise(tmp_path: Path) -> None:
    folder, line = tmp_path / "run", ListeningLine()
    ending = finetune(replace(assignment(folder, UNTRAINED), validation=None), folder, line)
    assert isinstance(ending, Finished)
    assert (card_of(folder).calibration, card_of(folder).novelty) == (None, None)
    assert find_question_index(folder / "output" / "adapter") is not None
    assert not line.of(CheckpointWritten)
