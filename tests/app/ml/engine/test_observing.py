import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.ml.adapter_card import read_card, write_card
from app.ml.calibration import answer_confidence
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.loading import LoadedModel
from app.ml.errors import AdapterMismatch
from app.ml.model_store import BaseModelFolder
from tests.app.ml.engine.training_help import EXAMPLES, Published, load

QUESTIONS = [*(example.question for example in EXAMPLES), "what is this", "price of a phone that is far from home"] * 3


@pytest.fixture
def engine(base: LoadedModel, published: dict[str, Published]) -> AnswerEngine:
    engine = AnswerEngine(base)
    engine.load_unsealed("new", published["dora"].folder)
    return engine


def test_what_is_observed_is_what_is_answered(engine: AnswerEngine) -> None:
    seen, answers = engine.observe(QUESTIONS, "new"), engine.answer(QUESTIONS, checksum="new")
    assert [one.codes for one in seen] == [one.best.codes for one in answers]
    assert [answer_confidence(one.scored(one.codes)) for one in seen] == [
        pytest.approx(one.best.confidence, rel=1e-4) for one in answers
    ]


def test_every_step_weighs_some_tokens_and_takes_the_likeliest(engine: AnswerEngine) -> None:
    for one in engine.observe(QUESTIONS, "new"):
        assert len(one.steps) == len(one.chosen) > 0
        for step, place in zip(one.steps, one.chosen, strict=True):
            assert len(step) > 1
            assert step[place] == max(step)
            assert torch.tensor(step).logsumexp(0).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.05, 0.3])
def test_label_smoothing_is_taken_back_from_what_is_weighed_and_said(
    engine: AnswerEngine, published: dict[str, Published], tmp_path: Path, smoothing: float
) -> None:
    folder = tmp_path / "smoothed"
    shutil.copytree(published["dora"].folder, folder)
    card = read_card(folder)
    write_card(folder, replace(card, spec=replace(card.spec, loss_over="allowed", label_smoothing_factor=smoothing)))
    plain = engine.observe(QUESTIONS, "new")
    engine.load_unsealed("smoothed", folder)
    seen, answers = engine.observe(QUESTIONS, "smoothed"), engine.answer(QUESTIONS, checksum="smoothed")

    assert [one.codes for one in seen] == [one.codes for one in plain] == [one.best.codes for one in answers]
    for one, before in zip(seen, plain, strict=True):
        for step, said in zip(one.steps, before.steps, strict=True):
            left = [max(math.exp(value) - smoothing / len(said), math.exp(value) / 100) for value in said]
            assert [math.exp(value) for value in step] == pytest.approx([value / sum(left) for value in left], rel=1e-3, abs=1e-6)
    for one, answer in zip(seen, answers, strict=True):
        assert answer_confidence(one.scored(one.codes)) == pytest.approx(answer.best.confidence, rel=1e-3)


def test_the_hidden_state_is_that_of_the_unpadded_prompt(
    engine: AnswerEngine, base: LoadedModel, published: dict[str, Published]
) -> None:
    network, renderer = published["dora"].network, read_card(published["dora"].folder).renderer
    for question, one in zip(QUESTIONS, engine.observe(QUESTIONS, "new"), strict=True):
        ids = torch.tensor([renderer.encode(question, base.tokenizer)])
        with torch.inference_mode():
            expected = network(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        assert (one.hidden.dtype, one.hidden.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(one.hidden, expected, rtol=1e-3, atol=1e-3)


def test_an_answer_is_right_whatever_the_order_of_its_codes(engine: AnswerEngine) -> None:
    (one,) = engine.observe(QUESTIONS[:1], "new")
    assert one.scored(one.codes[::-1]).is_right
    assert not one.scored((*one.codes, "another")).is_right


def test_no_questions_are_no_observations(engine: AnswerEngine) -> None:
    assert engine.observe([], "new") == []


def test_an_unsealed_adapter_of_another_base_model_is_refused(
    other_folder: BaseModelFolder, published: dict[str, Published]
) -> None:
    with pytest.raises(AdapterMismatch, match="sharp-gemma"):
        AnswerEngine(load(other_folder)).load_unsealed("new", published["lora"].folder)
