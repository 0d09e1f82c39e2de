"""The packed network against transformers and peft: the same loss, the same gradients."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from app.ml.engine.batching import TokenRow, collate
from app.ml.engine.loss import summed_loss
from app.ml.engine.packed.network import PackedNetwork, find_packed_network
from app.ml.engine.packed.packs import pack_rows, recurring_shape, shape_of, token_count
from tests.app.ml.engine.packed.families import FAMILIES, adapt, make_network, make_rows

CPU = torch.device("cpu")
QKV = ("q_proj", "k_proj", "v_proj")
SOME = ("q_proj", "v_proj", "down_proj", "up_proj")
TARGETS = [QKV, SOME, "all-linear"]


def gradients(network: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad and p.grad is not None}
    network.zero_grad(set_to_none=True)
    return found


def packed_of(network: Any, dropout: float = 0.0, *, is_checkpointing: bool = False) -> PackedNetwork:
    packed = find_packed_network(network, dropout=dropout, is_checkpointing=is_checkpointing)
    assert packed is not None
    packed.refresh()
    return packed


def run_packed(packed: PackedNetwork, network: Any, rows: list[TokenRow], *, is_rounded: bool = False) -> Any:
    shape = recurring_shape(shape_of(rows), ()) if is_rounded else None
    loss = packed.summed_loss(pack_rows(rows, shape).on(CPU))
    torch.autograd.backward(loss)
    return loss.item(), gradients(network)


def run_peft(network: Any, rows: list[TokenRow]) -> Any:
    total = 0.0
    for row in rows:
        loss = summed_loss(network, collate([row], pad_id=0, device=CPU))
        torch.autograd.backward(loss)
        total += float(loss)
    return total, gradients(network)


def assert_same(ours: Any, theirs: Any) -> None:
    (loss, grads), (expected_loss, expected) = ours, theirs
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert set(grads) == set(expected) and grads
    for name, grad in grads.items():
        error = (grad - expected[name]).norm() / expected[name].norm()
        assert error < 1e-4, f"{name}: {error}"


@pytest.mark.parametrize("is_rounded", [False, True])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_pefts(family: str, use_dora: bool, targets: Any, is_rounded: bool) -> None:
    network, rows = adapt(make_network(family), targets, use_dora=use_dora), make_rows()
    ours = run_packed(packed_of(network), network, rows, is_rounded=is_rounded)
    assert_same(ours, run_peft(network, rows))


class FixedDropout(torch.nn.Module):
    """Drops what one recorded mask drops, row after row."""

    def __init__(self, masks: list[torch.Tensor], dropout: float) -> None:
        super().__init__()
        self._masks: Iterator[torch.Tensor] = iter(masks)
        self._factor = 1 / (1 - dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * next(self._masks) * self._factor


def row_masks(mask: torch.Tensor, rows: list[TokenRow], trained: list[int], tokens: int) -> list[torch.Tensor]:
    """Cuts a pack's mask `[N or S, I]` into rows; the last layer has drawn for its trained tokens only."""
    if mask.shape[0] != tokens:
        whole = torch.zeros(tokens, mask.shape[1], dtype=torch.bool)
        whole[trained] = mask
        mask = whole
    return list(mask.split([token_count(row) for row in rows]))


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("family", ["gemma", "gemma3", "qwen2"])
def test_dropout_follows_pefts_law_mask_by_mask(
    family: str, use_dora: bool, targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feeds peft the very masks that the packed network drew: DoRA's base product of the dropped input included."""
    dropout = 0.3
    network, rows = adapt(make_network(family), targets, use_dora=use_dora, dropout=dropout), make_rows()
    packed = packed_of(network, dropout)
    drawn: list[torch.Tensor] = []
    draw = torch.Tensor.bernoulli_

    def record(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        drawn.append(draw(self, *arguments, **options).clone())
        return self

    monkeypatch.setattr(torch.Tensor, "bernoulli_", record)
    ours = run_packed(packed, network, rows)
    monkeypatch.undo()

    pack = pack_rows(rows).on(CPU)
    draws = iter(drawn)
    for layer in network.get_base_model().model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        together = [[attention.q_proj, attention.k_proj, attention.v_proj], [attention.o_proj]]
        together += [[mlp.gate_proj], [mlp.up_proj], [mlp.down_proj]]
        for modules in together:
            adapted = [module for module in modules if hasattr(module, "lora_A")]
            if not adapted:
                continue
            for module, mask in zip(adapted, next(draws), strict=True):
                cut = row_masks(mask, rows, pack.trained.tolist(), pack.shape.tokens)
                module.lora_dropout["default"] = FixedDropout(cut, dropout)
    assert_same(ours, run_peft(network, rows))


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_gradient_is_that_of_finite_differences(use_dora: bool) -> None:
    # DoRA holds its norm constant in the backward pass, so only B's and A's directions that leave the norm are compared
    # by peft's test above; the magnitude's slope has no such exception.
    network, rows = adapt(make_network("gemma"), QKV, use_dora=use_dora), make_rows(3)
    packed = packed_of(network)
    _, grads = run_packed(packed, network, rows)
    kind = "lora_magnitude_vector" if use_dora else "lora_B"
    name, parameter = next((n, p) for n, p in network.named_parameters() if kind in n and p.requires_grad)
    direction = torch.randn(parameter.shape)

    def loss_at(step: float) -> float:
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            packed.refresh()
            value = float(packed.summed_loss(pack_rows(rows).on(CPU)))
            parameter.sub_(direction, alpha=step)
        return value

    slope = (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3
    assert float((grads[name] * direction).sum()) == pytest.approx(slope, rel=0.02, abs=0.02)


def test_checkpointing_changes_no_number() -> None:
    network, rows = adapt(make_network("gemma3"), "all-linear", use_dora=True, dropout=0.2), make_rows()
    torch.manual_seed(5)
    plain = run_packed(packed_of(network, 0.2), network, rows)
    torch.manual_seed(5)
    checkpointed = run_packed(packed_of(network, 0.2, is_checkpointing=True), network, rows)
    assert_same(checkpointed, plain)


def test_packs_of_any_size_add_up_to_the_whole() -> None:
    network, rows = adapt(make_network("gemma3"), QKV, use_dora=True), make_rows(9)
    packed = packed_of(network)
    whole = run_packed(packed, network, rows)
    total = 0.0
    for part in (rows[:2], rows[2:3], rows[3:]):
        loss = packed.summed_loss(pack_rows(part).on(CPU))
        torch.autograd.backward(loss)
        total += float(loss)
    assert_same((total, gradients(network)), whole)


def test_without_training_nothing_is_dropped() -> None:
    network, rows = adapt(make_network("gemma"), QKV, use_dora=True, dropout=0.5), make_rows()
    packed = packed_of(network, 0.5)
    packed.set_training(False)
    with torch.no_grad():
        losses = {float(packed.summed_loss(pack_rows(rows).on(CPU))) for _ in range(3)}
        network.eval()
        expected = sum(float(summed_loss(network, collate([row], pad_id=0, device=CPU))) for row in rows)
    assert len(losses) == 1
    assert losses.pop() == pytest.approx(expected, rel=1e-5)


def test_in_bf16_the_loss_is_that_of_fp32_within_its_rounding() -> None:
    network, rows = adapt(make_network("gemma3"), QKV, use_dora=True), make_rows(12)
    exact, _ = run_packed(packed_of(network), network, rows)
    rough = adapt(make_network("gemma3").to(torch.bfloat16), QKV, use_dora=True)
    source = dict(network.named_parameters())
    with torch.no_grad():
        for name, parameter in rough.named_parameters():
            parameter.copy_(source[name])
    loss, grads = run_packed(packed_of(rough), rough, rows)
    assert loss == pytest.approx(exact, rel=0.02)
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads.values())


def test_peft_goes_on_working_after_the_weights_were_fused() -> None:
    network, rows = adapt(make_network("gemma"), QKV, use_dora=True), make_rows()
    before = run_peft(network, rows)
    packed_of(network)
    assert_same(run_peft(network, rows), before)


def test_a_family_that_is_not_known_is_left_to_the_padded_path() -> None:
    network = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    assert find_packed_network(adapt(network, ["c_attn"], use_dora=False), dropout=0.0) is None


def test_an_adapted_embedding_is_left_to_the_padded_path() -> None:
    network = adapt(make_network("gemma"), ["q_proj", "embed_tokens"], use_dora=False)
    assert find_packed_network(network, dropout=0.0) is None
