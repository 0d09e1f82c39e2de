import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from app.durable import seal_folder
from app.ml.adapter_card import CARD
from app.ml.engine.answering import AnswerEngine, EngineAnswer
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import ADAPTER_WEIGHTS
from app.ml.errors import AdapterMismatch, PromptTooLong
from app.ml.model_store import BaseModelFolder
from tests.app.ml.engine.training_help import EXAMPLES, Published, load

QUESTIONS = [example.question for example in EXAMPLES]
UNSEEN = [*QUESTIONS, "what is this", "price of plan A for a phone that is a long way from home"]
EXACT = ("lora", "dora", "rslora")


def engine_with(base: LoadedModel, *adapters: Published) -> AnswerEngine:
    engine = AnswerEngine(base)
    for adapter in adapters:
        engine.load(adapter.checksum, adapter.folder)
    return engine


def facts(answers: list[EngineAnswer]) -> list[tuple[object, ...]]:
    """What must agree; confidences only nearly, because a batch may round differently."""
    return [(one.best.codes, one.prompt_tokens, pytest.approx(one.best.confidence, rel=1e-4)) for one in answers]


def plain(answers: list[EngineAnswer]) -> list[tuple[object, ...]]:
    return [(one.best.codes, one.prompt_tokens, one.best.confidence) for one in answers]


def copy_of(adapter: Published, folder: Path) -> Path:
    return Path(shutil.copytree(adapter.folder, folder))


@pytest.mark.parametrize("name", EXACT)
def test_an_adapter_answers_what_it_was_trained_on(base: LoadedModel, published: dict[str, Published], name: str) -> None:
    adapter = published[name]
    answers = engine_with(base, adapter).answer(QUESTIONS, checksum=adapter.checksum)
    assert [one.best.codes for one in answers] == [example.codes for example in adapter.examples]


def test_an_answer_says_its_tokens_and_that_its_codes_are_known(base: LoadedModel, published: dict[str, Published]) -> None:
    (answer,) = engine_with(base, published["lora"]).answer(QUESTIONS[:1], checksum=published["lora"].checksum)
    # One token a byte: BOS, the question and the newline; "stop_1|9.9" and the end.
    assert (answer.prompt_tokens, answer.completion_tokens) == (1 + len(QUESTIONS[0]) + 1, len("stop_1|9.9") + 1)
    assert answer.in_vocabulary == (True, True)
    assert answer.alternatives == ()


@pytest.mark.parametrize("order", [("lora", "dora", "rslora"), ("rslora", "dora", "lora")])
def test_adapters_on_one_base_answer_each_as_a_lone_engine_does(
    sharp_folder: BaseModelFolder, published: dict[str, Published], order: tuple[str, ...]
) -> None:
    together = engine_with(load(sharp_folder), *(published[name] for name in order))
    for name in [*order, *order]:
        checksum = published[name].checksum
        alone = engine_with(load(sharp_folder), published[name]).answer(UNSEEN, checksum=checksum)
        assert plain(together.answer(UNSEEN, checksum=checksum)) == facts(alone)


def test_the_base_models_answers_are_unaffected_by_adapters(base: LoadedModel, published: dict[str, Published]) -> None:
    engine = AnswerEngine(base)
    before = engine.answer(UNSEEN, checksum=None)
    for name in EXACT:
        engine.load(published[name].checksum, published[name].folder)
        assert plain(engine.answer(UNSEEN, checksum=None)) == facts(before)
        trained = engine.answer(UNSEEN, checksum=published[name].checksum)
        assert [one.best.codes for one in trained] != [one.best.codes for one in before]
        assert plain(engine.answer(UNSEEN, checksum=None)) == facts(before)


def test_a_free_answer_claims_no_known_code(base: LoadedModel) -> None:
    (answer,) = AnswerEngine(base).answer(QUESTIONS[:1], checksum=None)
    assert answer.in_vocabulary == (False,) * len(answer.best.codes)


def test_an_adapter_of_another_base_model_is_refused(other_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    engine = AnswerEngine(load(other_folder))
    with pytest.raises(AdapterMismatch, match="sharp-gemma"):
        engine.load(published["lora"].checksum, published["lora"].folder)
    assert not engine.holds(published["lora"].checksum)


@pytest.mark.parametrize("name", [ADAPTER_WEIGHTS, "adapter_config.json", CARD])
@pytest.mark.parametrize("damage", ["flipped", "emptied", "removed"])
def test_a_folder_that_was_tampered_with_is_refused(
    base: LoadedModel, published: dict[str, Published], tmp_path: Path, name: str, damage: str
) -> None:
    folder = copy_of(published["lora"], tmp_path / "adapter")
    data = bytearray((folder / name).read_bytes())
    if damage == "removed":
        (folder / name).unlink()
    else:
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(b"" if damage == "emptied" else data)
    engine = AnswerEngine(base)
    with pytest.raises(AdapterMismatch):
        engine.load(published["lora"].checksum, folder)
    assert not engine.holds(published["lora"].checksum)


def test_a_whole_folder_under_anothers_checksum_is_refused(base: LoadedModel, published: dict[str, Published]) -> None:
    engine = AnswerEngine(base)
    with pytest.raises(AdapterMismatch, match="not those of its checksum"):
        engine.load(published["lora"].checksum, published["dora"].folder)


def test_an_engine_answers_on_after_it_refused_a_folder(base: LoadedModel, published: dict[str, Published]) -> None:
    adapter = published["lora"]
    engine = engine_with(base, adapter)
    with pytest.raises(AdapterMismatch):
        engine.load("f" * 64, published["dora"].folder)
    assert [one.best.codes for one in engine.answer(QUESTIONS, checksum=adapter.checksum)] == [e.codes for e in EXAMPLES]


def test_the_least_recently_used_adapter_leaves_first(base: LoadedModel, published: dict[str, Published], tmp_path: Path) -> None:
    most = 4
    engine, checksums = AnswerEngine(base, most_adapters=most), []
    for number in range(most + 1):
        folder = copy_of(published[EXACT[number % 2]], tmp_path / str(number))
        card = json.loads((folder / CARD).read_text())
        (folder / CARD).write_text(json.dumps(card | {"seed": number}))
        checksums.append(seal_folder(folder))
        if number == most:
            engine.answer(QUESTIONS[:1], checksum=checksums[0])
        engine.load(checksums[-1], folder)
    assert [engine.holds(checksum) for checksum in checksums] == [True, False, *[True] * (most - 1)]
    for number in (0, 3, most):
        expected = [example.codes for example in published[EXACT[number % 2]].examples]
        assert [one.best.codes for one in engine.answer(QUESTIONS, checksum=checksums[number])] == expected


def test_many_questions_are_answered_in_their_order(base: LoadedModel, published: dict[str, Published]) -> None:
    adapter = published["lora"]
    answers = engine_with(base, adapter).answer(QUESTIONS * 7, checksum=adapter.checksum)
    assert [one.best.codes for one in answers] == [example.codes for example in EXAMPLES] * 7


def test_no_questions_have_no_answers(base: LoadedModel) -> None:
    assert AnswerEngine(base).answer([], checksum=None) == []


def test_alternatives_are_distinct_and_not_the_best_answer(base: LoadedModel, published: dict[str, Published]) -> None:
    adapter = published["rslora"]
    engine = engine_with(base, adapter)
    for answer in engine.answer(UNSEEN, checksum=adapter.checksum, alternatives=3):
        codes = [other.codes for other in answer.alternatives]
        assert 2 <= len(codes) <= 3
        assert len({answer.best.codes, *codes}) == 1 + len(codes)
        assert {code for other in codes for code in other} <= engine.vocabulary_of(adapter.checksum)


def test_asking_for_alternatives_does_not_change_the_answer(base: LoadedModel, published: dict[str, Published]) -> None:
    adapter = published["dora"]
    engine = engine_with(base, adapter)
    with_alternatives = engine.answer(UNSEEN, checksum=adapter.checksum, alternatives=2)
    assert plain(with_alternatives) == facts(engine.answer(UNSEEN, checksum=adapter.checksum))


def test_a_question_that_is_too_long_is_refused(base: LoadedModel) -> None:
    # One token a byte, and BOS and the newline: 2048 is the limit.
    with pytest.raises(PromptTooLong, match="2049 tokens"):
        AnswerEngine(base).answer(["x" * 2047], checksum=None)


@pytest.mark.parametrize("name", [*EXACT, "embedding"])
def test_plain_peft_computes_what_training_left(
    sharp_folder: BaseModelFolder, published: dict[str, Published], name: str
) -> None:
    ids = torch.tensor([[256, *b"how to stop plan A\nstop"]])
    network = AutoModelForCausalLM.from_pretrained(sharp_folder.path, dtype=torch.float32)
    with torch.inference_mode():
        before = network(input_ids=ids).logits
        plain_peft = PeftModel.from_pretrained(network, str(published[name].folder)).eval()
        after = plain_peft(input_ids=ids).logits
        expected = published[name].network(input_ids=ids).logits
    assert float((after - before).abs().max()) > 1.0
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
