"""The variant in which a code is one new token: what is new, what stays the base's, and that it learns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.ml.codes import CodeVocabulary
from app.ml.engine.loading import LoadedModel, load_base_model
from app.ml.errors import InvalidSpec
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from app.ml.spec import FinetuneSpec
from bench.quality.code_tokens import CodeTokenizer, CodeTokenModel, train_code_tokens, with_code_tokens
from bench.quality.datasets import material_for_choosing
from bench.quality.running import RunRequest, run_once
from bench.quality.variants import VARIANTS, find_variants, spec_of
from tests.fixtures.tiny import EOS, TINY, write_tiny_model

CODES = ("stop_1", "9.9", "open_12")
EXAMPLES = (
    Example(1, "how to stop plan A", ("stop_1", "9.9")),
    Example(2, "price of B", ("9.9",)),
    Example(3, "open the roaming pack please", ("open_12", "stop_1", "9.9")),
    Example(4, "open A", ("open_12",)),
)
# Overfits EXAMPLES in a second or two.
FAST = FinetuneSpec(
    lora_rank=16,
    lora_alpha=32,
    learning_rate=1e-2,
    num_train_epochs=30,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    precision="fp32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> BaseModelFolder:
    return write_tiny_model(tmp_path_factory.mktemp("models") / TINY)


@pytest.fixture
def base(folder: BaseModelFolder) -> LoadedModel:
    return load_base_model(folder, device=torch.device("cpu"), dtype=torch.float32)


def trained(base: LoadedModel, spec: FinetuneSpec = FAST, **options: Any) -> CodeTokenModel:
    return train_code_tokens(base, EXAMPLES, spec, seed=1, **options)


def test_a_code_the_separator_and_the_end_are_one_token_each_and_other_text_is_the_bases(base: LoadedModel) -> None:
    tokenizer = CodeTokenizer.of_codes(base.tokenizer, CODES)
    assert [tokenizer.encode(text) for text in (*CODES, "|")] == [[0], [1], [2], [3]]
    assert (tokenizer.eos_id, tokenizer.size) == (4, 5)
    assert tokenizer.encode("stop_1!") == [token + 5 for token in base.tokenizer.encode("stop_1!")]
    assert (tokenizer.bos_id, tokenizer.pad_id) == (256 + 5, 258 + 5)
    assert tokenizer.decode([*tokenizer.encode("问 stop\n"), 0, 3, 1, 4]) == "问 stop\nstop_1|9.9"


def test_a_new_token_starts_as_the_mean_of_the_tokens_that_spell_it(base: LoadedModel) -> None:
    words = base.network.get_input_embeddings().weight
    with_code_tokens(base, CodeVocabulary(CODES, 2))
    weight = base.network.get_output_embeddings().weight
    torch.testing.assert_close(weight[0], words[base.tokenizer.encode("stop_1")].mean(0))
    torch.testing.assert_close(weight[4], words[EOS])


def test_text_is_read_as_before_and_a_new_token_as_its_weight_says(base: LoadedModel) -> None:
    ids = torch.tensor([base.tokenizer.encode("price of B")])
    before = base.network.get_input_embeddings()(ids)
    extended = with_code_tokens(base, CodeVocabulary(CODES, 2))
    read = extended.network.get_input_embeddings()
    assert torch.equal(read(ids + 5), before)
    # Gemma enlarges what it reads by the root of its width.
    torch.testing.assert_close(read(torch.tensor([[2]]))[0, 0], extended.network.get_output_embeddings().weight[2] * 32**0.5)


@pytest.mark.parametrize("loss_over", ["vocabulary", "allowed"])
def test_it_learns_its_rows_and_answers_them(base: LoadedModel, loss_over: Any) -> None:
    model = trained(base, replace(FAST, loss_over=loss_over))
    answered = model.answer(EXAMPLES)
    assert [row.given for row in answered] == [row.codes for row in EXAMPLES]
    assert [row.slices["codes_in_training"] for row in answered] == ["seen"] * 4
    assert all(row.confidence > 0.5 and row.passes == 2 * len(row.given) for row in answered)
    assert model.train_loss < 0.1


def test_in_bf16_it_learns_too_and_what_trains_is_fp32(folder: BaseModelFolder) -> None:
    model = trained(load_base_model(folder, device=torch.device("cpu"), dtype=torch.bfloat16))
    assert [row.given for row in model.answer(EXAMPLES)] == [row.codes for row in EXAMPLES]
    assert {one.dtype for one in model.network.parameters() if one.requires_grad} == {torch.float32}
    assert model.network.dtype == torch.bfloat16


def test_new_tokens_train_in_full_at_a_rate_of_their_own_and_the_bases_embeddings_do_not(base: LoadedModel) -> None:
    words = base.network.get_input_embeddings().weight
    frozen = words.clone()
    model = trained(base, replace(FAST, num_train_epochs=1), code_learning_rate=0.5)
    learnt = model.network.get_output_embeddings().weight.detach()
    begun = torch.stack([frozen[spelled].mean(0) for spelled in model.base.tokenizer.spellings()])
    assert torch.equal(words, frozen)
    # AdamW's first step goes by the learning rate wherever there is a slope.
    assert float((learnt - begun).abs().median()) == pytest.approx(0.5, rel=0.01)


def test_prompts_may_show_neighbours_whose_answers_are_code_tokens(base: LoadedModel) -> None:
    model = trained(base, replace(FAST, prompt_neighbours=1, num_train_epochs=1))
    prompt = model.renderer.encode("price of B?", model.base.tokenizer)
    assert model.base.tokenizer.decode(prompt[1:]) == "price of B\n9.9\nprice of B?\n"
    assert [token for token in prompt if token < model.base.tokenizer.size] == model.base.tokenizer.encode("9.9")


def test_held_out_rows_give_a_temperature(base: LoadedModel) -> None:
    model = trained(base, replace(FAST, num_train_epochs=2))
    assert model.calibrated(EXAMPLES).calibration is None, "questions of the training say nothing"
    held_out = [Example(number, f"stop plan {number}", ("stop_1",)) for number in range(120)]
    calibrated = model.calibrated(held_out)
    assert calibrated.calibration is not None
    assert calibrated.temperature == calibrated.calibration.temperature != 1.0


def test_teachers_are_refused(base: LoadedModel) -> None:
    with pytest.raises(ValueError, match="no teachers"):
        trained(base, replace(FAST, loss_over="allowed", distill_from=("teacher:1",)))


def test_an_unknown_format_of_answers_is_named() -> None:
    with pytest.raises(InvalidSpec, match="answer_format"):
        find_variants(["lora"], None, {"answer_format": "emoji"})


def test_the_variant_has_the_spec_of_plain_lora() -> None:
    assert spec_of(VARIANTS["code_tokens"]) == spec_of(VARIANTS["lora"])


def test_a_run_leaves_the_line_that_a_spelled_one_leaves(folder: BaseModelFolder, tmp_path: Path) -> None:
    (tmp_path / "telecom").mkdir()
    verbs = ("open", "stop", "price", "what")
    rows = [
        {"instruction": f"{verb} plan {number}", "input": "", "output": f"{verb}_{number % 5}"}
        for number in range(10)
        for verb in verbs
    ]
    (tmp_path / "telecom" / "telecom_train_5000.json").write_text(json.dumps(rows))
    small = {"num_train_epochs": 1.0, "lora_rank": 4, "precision": "fp32"}
    lines = {
        name: run_once(RunRequest("telecom", name, {**VARIANTS[name], **small}, 1, False), data=tmp_path, model=folder.path)
        for name in ("lora", "code_tokens", "single_tokens")
    }
    spelled, new = lines["lora"], lines["code_tokens"]
    assert new.keys() == spelled.keys() == lines["single_tokens"].keys()
    assert new["parts"]["choice"].keys() == spelled["parts"]["choice"].keys()
    assert new["rows"] == len(material_for_choosing("telecom", tmp_path).training)
    assert len(new["parts"]["choice"]["right"]) == 4
    assert new["overrides"]["answer_format"] == "code_tokens"
