from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.ml.adapter_card import read_card, write_card
from app.ml.engine import teaching
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import load_adapter
from app.ml.engine.soft_targets import SoftTargets
from app.ml.engine.teaching import ask_teachers
from app.ml.engine.training import TrainPlan, train
from app.ml.errors import AdapterMismatch, DistillationTooLarge
from app.ml.model_store import BaseModelFolder
from tests.app.ml.engine.training_help import EXAMPLES, FAST, Published, RecordingHooks, grammar_for, load, token_rows

LEARNER = replace(FAST, loss_over="allowed", distill_from=("a:1",), num_train_epochs=4)


def ask(base: LoadedModel, adapters: list[Published], *, temperature: float = 1.0) -> SoftTargets:
    folders = [adapter.folder for adapter in adapters]
    choices = ChoiceTable(grammar_for(base))
    soft = ask_teachers(base, folders, EXAMPLES, choices, cutoff_len=512, temperature=temperature)
    assert soft is not None
    return soft


def said_by(folder: BaseModelFolder, adapter: Published, temperature: float) -> dict[int, torch.Tensor]:
    """One teacher's distributions from transformers' and peft's own logits, row by row."""
    base = load(folder)
    network, choices = load_adapter(base.network, adapter.folder, "teacher"), ChoiceTable(grammar_for(base))
    said = {}
    for number, row in enumerate(token_rows(base, spec=read_card(adapter.folder).spec)):
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([[*row.prompt, *row.answer]])).logits[0].float()
        chosen = choices.of(row.answer)
        at = logits[[len(row.prompt) - 1 + place for place in chosen.places]][:, list(choices.tokens)] / temperature
        said[number] = at.masked_fill(~choices.allowed(chosen.menus), float("-inf")).softmax(1)
    return said


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_teachers_are_heard_as_the_mean_of_their_own_distributions(
    sharp_folder: BaseModelFolder, published: dict[str, Published], temperature: float
) -> None:
    # One of them goes the padded way.
    adapters = [published[name] for name in ("lora", "rslora", "embedding")]
    soft = ask(load(sharp_folder), adapters, temperature=temperature)
    each = [said_by(sharp_folder, adapter, temperature) for adapter in adapters]
    for number in range(len(EXAMPLES)):
        expected = torch.stack([said[number] for said in each]).mean(0)
        torch.testing.assert_close(soft.known[number][1], expected, rtol=1e-3, atol=1e-5)


def test_a_teacher_of_other_codes_is_asked_within_the_learners(base: LoadedModel, published: dict[str, Published]) -> None:
    soft = ask(base, [published["dora"]])
    assert all(torch.allclose(said.sum(1), torch.ones(len(said))) for _, said in soft.known.values())


def test_asking_leaves_the_base_model_as_it_was(base: LoadedModel, published: dict[str, Published]) -> None:
    before = {name: tensor.clone() for name, tensor in base.network.state_dict().items()}
    ask(base, [published["lora"], published["dora"]])
    after = base.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_learner_of_teachers_alone_comes_to_choose_as_they_do(
    sharp_folder: BaseModelFolder, tmp_path: Path, published: dict[str, Published]
) -> None:
    base = load(sharp_folder)
    soft = ask(base, [published["embedding"]])
    # Its teacher is far from sure of anything, so the right tokens alone would lead elsewhere.
    spec = replace(LEARNER, distill_weight=1.0, num_train_epochs=40)
    plan = TrainPlan(spec, token_rows(base), 1, tmp_path, grammar=grammar_for(base), soft=soft)
    losses = [entry["loss"] for entry in train(base, plan, RecordingHooks()).state.losses]
    entropy = sum(float(-(said * said.clamp(min=1e-30).log()).sum()) for _, said in soft.known.values())
    least = entropy / sum(len(said) for _, said in soft.known.values())
    assert losses[0] > least + 0.3
    assert least - 1e-3 < losses[-1] < least + 0.1


def test_asking_may_be_cut_short(base: LoadedModel, published: dict[str, Published]) -> None:
    choices = ChoiceTable(grammar_for(base))
    asked = [published["lora"].folder]
    assert ask_teachers(base, asked, EXAMPLES, choices, cutoff_len=512, temperature=1.0, is_cut_short=lambda: True) is None
    assert not hasattr(base.network, "peft_config") or not any("lora_" in name for name in base.network.state_dict())


def test_a_teacher_on_another_base_model_is_refused(base: LoadedModel, published: dict[str, Published], tmp_path: Path) -> None:
    write_card(tmp_path, replace(read_card(published["lora"].folder), base_model_checksum="f" * 64))
    with pytest.raises(AdapterMismatch) as caught:
        ask_teachers(base, [tmp_path], EXAMPLES, ChoiceTable(grammar_for(base)), cutoff_len=512, temperature=1.0)
    assert caught.value.param == "distill_from"


def test_more_than_the_memory_for_it_is_refused(
    base: LoadedModel, published: dict[str, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching, "_MOST_BYTES", 100)
    with pytest.raises(DistillationTooLarge) as caught:
        ask(base, [published["lora"]])
    assert caught.value.param == "distill_from"


def test_a_row_with_another_order_of_codes_is_taught_by_its_tokens_alone(
    base: LoadedModel, published: dict[str, Published]
) -> None:
    soft, grammar = ask(base, [published["lora"]]), grammar_for(base)
    answer = tuple(grammar.encode_answer(EXAMPLES[0].codes[::-1]))
    targets = soft.of([(0, answer), (99, answer), (0, tuple(grammar.encode_answer(EXAMPLES[0].codes)))])
    count = len(soft.choices.of(answer).labels)
    assert targets[: 2 * count].argmax(1).tolist() == 2 * list(soft.choices.of(answer).labels)
    assert set(targets[: 2 * count].flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(targets[2 * count :], soft.known[0][1])
