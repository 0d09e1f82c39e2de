"""The presets that answer best, from rows to an adapter that answers: on a tiny model, a few steps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.ml.adapter_card import read_card
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.question_index import find_question_index
from app.ml.spec import PRESETS
from tests.app.ml.augmentation.test_inferences import code, parts, wholes
from tests.fixtures.tiny import TINY, write_tiny_model
from tests.worker.assignments import training_assignment
from worker.assignment import OUTPUT, Assignment
from worker.child import finetune
from worker.child_inputs import load_base
from worker.line import SilentLine
from worker.messages import Finished


def assignment_in(folder: Path, preset: str) -> Assignment:
    folder.mkdir(parents=True)
    rows = [{"instruction": question, "output": "|".join(codes)} for question, codes in (wholes() | parts()).items()]
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False))
    few = {"min_train_steps": 1, "max_train_steps": 6, "per_device_train_batch_size": 8, "lora_rank": 4, "precision": "fp32"}
    base = write_tiny_model(folder / "models" / TINY)
    return training_assignment(base, folder / "rows.json", replace(PRESETS[preset], **few))  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", ["auto", "direct"])
def test_a_preset_trains_an_adapter_that_answers_with_codes_of_its_rows(tmp_path: Path, preset: str) -> None:
    assignment = assignment_in(tmp_path / preset, preset)
    ending = finetune(assignment, tmp_path / preset, SilentLine())
    assert isinstance(ending, Finished)
    adapter = tmp_path / preset / OUTPUT / "adapter"
    engine = AnswerEngine(load_base(assignment, precision="fp32"))
    engine.load(ending.result["checksum"], adapter)
    (answer,) = engine.answer(["15元的流量月包几天有效"], checksum=ending.result["checksum"])
    assert set(answer.best.codes) <= set(read_card(adapter).vocabulary.codes)


def test_autos_prompts_may_show_what_no_row_says(tmp_path: Path) -> None:
    assignment = assignment_in(tmp_path / "auto", "auto")
    assert isinstance(finetune(assignment, tmp_path / "auto", SilentLine()), Finished)
    adapter = tmp_path / "auto" / OUTPUT / "adapter"
    index, codes = find_question_index(adapter), read_card(adapter).vocabulary.codes
    assert index is not None and index.texts is not None
    answers = {index.texts[place]: index.answers[answer] for place, answer in enumerate(index.answer_of_document.tolist())}
    assert [codes[number] for number in answers["15元的流量月包几天有效"]] == [code("几天有效", "流量月包", 0)]
    # It is known that training saw this answer of no row.
    assert index.frequencies[list(index.answers).index(answers["15元的流量月包几天有效"])] == 0
