"""The objectives against a slow reference: each answer's tokens one by one, with the grammar asked at each."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.ml.codes import AnswerGrammar, CodeVocabulary
from app.ml.engine.batching import TokenRow, collate
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.decoding import decode_constrained
from app.ml.engine.loss import summed_loss
from app.ml.engine.objective import CROSS_ENTROPY, Objective, focal_losses, focal_slopes, make_objective
from app.ml.engine.packed.network import find_packed_network
from app.ml.engine.packed.packs import pack_rows, recurring_shape, shape_of
from app.ml.engine.soft_targets import SoftTargets
from app.ml.engine.training import TrainPlan, Wish, train
from app.ml.model_store import BaseModelFolder
from app.ml.spec import PRESETS, FinetuneSpec
from tests.app.ml.engine.packed.families import adapt, make_network, make_rows
from tests.app.ml.engine.training_help import (
    CPU,
    EXAMPLES,
    FAST,
    RecordingHooks,
    grammar_for,
    held_out_rows,
    load,
    run,
    token_rows,
)
from tests.fixtures.tiny import PAD

TOKENS = {"a_1": (20, 21), "a_11": (20, 21, 21), "a_2": (20, 22), "b": (30, 31, 32), "c": (40,)}
GRAMMAR = AnswerGrammar(CodeVocabulary(tuple(TOKENS), 3), lambda text: {**TOKENS, "|": (7,)}[text], end_id=9)
ANSWERS = [("a_1", "c"), ("b",), ("a_11", "a_1", "a_2"), ("c", "b"), ("a_2",), ("a_11",), ("c",)]
OBJECTIVES = [(0.0, 0.0), (2.0, 0.0), (0.0, 0.1), (0.5, 0.2)]


def rows() -> list[TokenRow]:
    return [TokenRow(row.prompt, tuple(GRAMMAR.encode_answer(codes))) for row, codes in zip(make_rows(), ANSWERS, strict=True)]


def by_hand(network: Any, row: TokenRow, gamma: float, smoothing: float, grammar: AnswerGrammar | None) -> torch.Tensor:
    """The loss of a row from transformers' own logits over the whole vocabulary."""
    logits = network(input_ids=torch.tensor([[*row.prompt, *row.answer]]), use_cache=False).logits[0].float()
    total, state = torch.zeros(()), None if grammar is None else grammar.initial
    for place, token in enumerate(row.answer):
        allowed = list(range(logits.shape[1]))
        if grammar is not None:
            assert state is not None
            allowed, state = grammar.allowed(state), grammar.advance(state, token)
        if len(allowed) == 1:
            continue
        scores = logits[len(row.prompt) - 1 + place]
        probabilities = scores[allowed].softmax(0)
        of_label = probabilities[allowed.index(token)]
        loss = -(1 - smoothing) * of_label.log() - smoothing * probabilities.log().mean()
        total = total + loss * (1 - of_label) ** gamma
    return total


def gradients(network: Any, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    network.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    return loss.item(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def assert_same(ours: Any, expected: Any) -> None:
    assert ours[0] == pytest.approx(expected[0], rel=1e-5)
    assert ours[1].keys() == expected[1].keys() and ours[1]
    for name, gradient in ours[1].items():
        error = (gradient - expected[1][name]).norm() / expected[1][name].norm()
        assert error < 1e-4, f"{name}: {error}"


@pytest.mark.parametrize("heat", [1.0, 2.5])
def test_a_loss_that_learns_from_teachers_and_its_gradients_are_those_made_by_hand(heat: float) -> None:
    network = adapt(make_network("gemma2"), "all-linear", use_dora=True)
    choices, generator = ChoiceTable(GRAMMAR), torch.Generator()
    taught, known, total = rows(), {}, torch.zeros(())
    for number, row in enumerate(taught):
        chosen = choices.of(row.answer)
        allowed = choices.allowed(chosen.menus)
        scores = torch.randn(allowed.shape, generator=generator).masked_fill(~allowed, float("-inf"))
        # The last row is of no example that the teachers saw.
        if number < len(taught) - 1:
            known[number] = (row.answer, scores.softmax(1))
            taught[number] = replace(row, example=number)
        logits = network(input_ids=torch.tensor([[*row.prompt, *row.answer]]), use_cache=False).logits[0].float()
        for target, place, label, menu in zip(scores.softmax(1), chosen.places, chosen.labels, allowed, strict=True):
            own = logits[len(row.prompt) - 1 + place][[choices.tokens[c] for c in menu.nonzero().flatten().tolist()]]
            wanted = target[menu] if number in known else torch.nn.functional.one_hot(torch.tensor(label), len(menu))[menu]
            hard = -own.log_softmax(0)[int(menu[:label].sum())]
            total = total + 0.7 * hard - 0.3 * heat**2 * (wanted * (own / heat).log_softmax(0)).sum()
    expected = gradients(network, total)
    soft = SoftTargets(choices, known)
    objective = Objective(choices, soft=soft, distill_weight=0.3, distill_temperature=heat)
    batch = collate(taught, pad_id=0, device=CPU, choices=choices, soft=soft)
    assert_same(gradients(network, summed_loss(network, batch, objective)), expected)
    packed = find_packed_network(network, dropout=0.0, objective=objective)
    assert packed is not None
    packed.refresh()
    for shape in (None, recurring_shape(shape_of(taught, choices), ())):
        assert_same(gradients(network, packed.summed_loss(pack_rows(taught, shape, choices, soft).on(CPU))), expected)


@pytest.mark.parametrize(("gamma", "smoothing"), OBJECTIVES)
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "qwen2"])
def test_the_loss_over_allowed_tokens_and_its_gradients_are_those_made_by_hand(
    family: str, gamma: float, smoothing: float
) -> None:
    network = adapt(make_network(family), "all-linear", use_dora=True)
    expected = gradients(network, sum((by_hand(network, row, gamma, smoothing, GRAMMAR) for row in rows()), torch.zeros(())))
    objective = Objective(ChoiceTable(GRAMMAR), gamma, smoothing)
    batch = collate(rows(), pad_id=0, device=CPU, choices=objective.choices)
    assert_same(gradients(network, summed_loss(network, batch, objective)), expected)
    packed = find_packed_network(network, dropout=0.0, objective=objective)
    assert packed is not None
    packed.refresh()
    for shape in (None, recurring_shape(shape_of(rows(), objective.choices), ())):
        pack = pack_rows(rows(), shape, objective.choices).on(CPU)
        assert_same(gradients(network, packed.summed_loss(pack)), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_the_focal_loss_over_the_vocabulary_and_its_gradients_are_those_made_by_hand(family: str, gamma: float) -> None:
    network = adapt(make_network(family), "all-linear", use_dora=False)
    expected = gradients(network, sum((by_hand(network, row, gamma, 0.0, None) for row in rows()), torch.zeros(())))
    objective = Objective(focal_gamma=gamma)
    batch = collate(rows(), pad_id=0, device=CPU)
    assert_same(gradients(network, summed_loss(network, batch, objective)), expected)
    packed = find_packed_network(network, dropout=0.0, objective=objective)
    assert packed is not None
    packed.refresh()
    assert_same(gradients(network, packed.summed_loss(pack_rows(rows()).on(CPU))), expected)


def test_a_token_without_a_competitor_adds_nothing() -> None:
    network = make_network("gemma3")
    objective = Objective(ChoiceTable(GRAMMAR))
    some = collate(rows(), pad_id=0, device=CPU, choices=objective.choices)
    assert some.label_count == sum(len(ChoiceTable(GRAMMAR).of(row.answer).places) for row in rows())
    assert some.label_count < sum(len(row.answer) for row in rows())
    assert float(summed_loss(network, some, objective)) < float(summed_loss(network, collate(rows(), pad_id=0, device=CPU)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_a_focal_slope_is_the_losses_derivative_and_finite_where_the_model_is_sure(gamma: float) -> None:
    losses = torch.tensor([0.0, 1e-9, 1e-3, 0.5, 2.0, 30.0], requires_grad=True)
    torch.autograd.backward(focal_losses(losses, gamma).sum())
    assert losses.grad is not None and losses.grad.isfinite().all()
    torch.testing.assert_close(focal_slopes(losses.detach(), gamma), losses.grad)


@pytest.mark.parametrize("preset", ["recipe", "quick"])
def test_no_preset_of_before_asks_for_another_loss_than_cross_entropy(preset: str) -> None:
    assert make_objective(PRESETS[preset], None) == CROSS_ENTROPY


# Everything that changes the loss, on the packed path; and with an adapted embedding on the padded one.
CHOOSING = replace(FAST, loss_over="allowed", focal_gamma=1.0, label_smoothing_factor=0.02, lora_dropout=0.1, num_train_epochs=6)


def train_choosing(folder: BaseModelFolder, spec: FinetuneSpec, place: Path, **plan: Any) -> Any:
    base = load(folder)
    hooks = plan.pop("hooks", RecordingHooks())
    return train(base, TrainPlan(spec, token_rows(base, spec=spec), 1, place, grammar=grammar_for(base), **plan), hooks)


def answers_of(folder: BaseModelFolder, network: Any) -> Sequence[tuple[str, ...]]:
    base = load(folder)
    prompts = [row.prompt for row in token_rows(base)]
    return [a.codes for (a,) in decode_constrained(network, prompts, grammar_for(base), pad_id=PAD, device=CPU)]


@pytest.mark.parametrize("targets", [("q_proj", "v_proj", "down_proj"), ("q_proj", "down_proj", "embed_tokens")])
def test_a_handful_of_rows_is_learnt_by_its_choices_alone(
    sharp_folder: BaseModelFolder, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    spec = replace(FAST, loss_over="allowed", lora_target=targets)
    result = train_choosing(sharp_folder, spec, tmp_path)
    assert answers_of(sharp_folder, result.network) == [example.codes for example in EXAMPLES]
    assert result.state.losses[-1]["loss"] < 0.1 < result.state.losses[0]["loss"]


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("q_proj", "embed_tokens")])
def test_a_run_over_choices_resumes_bit_for_bit(sharp_folder: BaseModelFolder, tmp_path: Path, targets: tuple[str, ...]) -> None:
    spec, hooks = replace(CHOOSING, lora_target=targets), RecordingHooks(wish_at=(2, Wish.SAVE_AND_STOP))
    whole = train_choosing(sharp_folder, spec, tmp_path / "whole")
    train_choosing(sharp_folder, spec, tmp_path / "first", hooks=hooks)
    rest = train_choosing(sharp_folder, spec, tmp_path / "rest", resume_from=hooks.checkpoints[-1][0])
    assert rest.state.losses == whole.state.losses


def test_the_held_out_loss_of_a_run_over_choices_is_over_them_too(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    spec = replace(FAST, loss_over="allowed", num_train_epochs=2)
    base = load(sharp_folder)
    plan = TrainPlan(spec, token_rows(base), 1, tmp_path, held_out=held_out_rows(base, EXAMPLES), grammar=grammar_for(base))
    result = train(base, plan, RecordingHooks())
    table = ChoiceTable(grammar_for(base))
    with torch.no_grad():
        total = sum(float(by_hand(result.network, row, 0.0, 0.0, grammar_for(base))) for row in token_rows(base))
    count = sum(len(table.of(row.answer).places) for row in token_rows(base))
    assert result.state.evaluations[-1]["eval_loss"] == pytest.approx(total / count, rel=1e-4)
    assert math.isfinite(total)


def test_a_loss_over_the_vocabulary_trains_as_before_whatever_grammar_is_given(
    sharp_folder: BaseModelFolder, tmp_path: Path
) -> None:
    spec = replace(FAST, num_train_epochs=3)
    assert train_choosing(sharp_folder, spec, tmp_path).state.losses == run(sharp_folder, spec, tmp_path).state.losses
