"""Triton's kernels against plain torch, pass by pass, in Triton's interpreter: no GPU is needed."""

from typing import Any

import pytest
import torch

from app.ml.engine.packed import kernels, plain
from app.ml.engine.packed.fused import passes_for

DTYPES = [torch.float32, torch.bfloat16]


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-9))


def assert_alike(ours: Any, theirs: Any, dtype: torch.dtype) -> None:
    limit = 1e-6 if dtype == torch.float32 else 1e-2
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    for one, other in pairs:
        assert error(one, other) < limit


def some(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_delta", [False, True])
def test_add_norm(dtype: torch.dtype, has_delta: bool) -> None:
    x, gain = some(13, 48, dtype=dtype), some(48, dtype=torch.float32).abs()
    delta = some(13, 48, dtype=dtype, seed=1) if has_delta else None
    ours = kernels.add_norm(x, delta, gain, 1e-6, dtype)
    theirs = plain.add_norm(x, delta, gain, 1e-6, dtype)
    assert_alike(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_residual", [False, True])
def test_norm_backward(dtype: torch.dtype, has_residual: bool) -> None:
    x, gain, grad = some(13, 48, dtype=dtype), some(48, dtype=torch.float32), some(13, 48, dtype=dtype, seed=1)
    residual = some(13, 48, dtype=dtype, seed=2) if has_residual else None
    _, _, scale = plain.add_norm(x, None, gain, 1e-6, dtype)
    ours = kernels.norm_backward(grad, residual, x, scale, gain)
    assert_alike(ours, plain.norm_backward(grad, residual, x, scale, gain), dtype)


def test_norm_backward_is_the_derivative_of_add_norm() -> None:
    x = some(5, 16, dtype=torch.float32).requires_grad_()
    gain, grad = some(16, dtype=torch.float32), some(5, 16, dtype=torch.float32, seed=1)
    (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain).backward(grad)
    _, _, scale = plain.add_norm(x.detach(), None, gain, 1e-6, torch.float32)
    assert x.grad is not None
    assert error(plain.norm_backward(grad, None, x.detach(), scale, gain), x.grad) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_gated(dtype: torch.dtype, activation: str) -> None:
    gate, up, grad = (some(13, 100, dtype=dtype, seed=seed) for seed in range(3))
    assert_alike(kernels.gated(gate, up, activation), plain.gated(gate, up, activation), dtype)
    ours = kernels.gated_backward(grad, gate, up, activation)
    assert_alike(ours, plain.gated_backward(grad, gate, up, activation), dtype)


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_gated_backward_is_the_derivative_of_gated(activation: str) -> None:
    gate, up = (some(4, 9, dtype=torch.float32, seed=seed).requires_grad_() for seed in range(2))
    grad = some(4, 9, dtype=torch.float32, seed=2)
    act = torch.nn.functional.silu(gate) if activation == "silu" else torch.nn.functional.gelu(gate, approximate="tanh")
    (act * up).backward(grad)
    assert gate.grad is not None and up.grad is not None
    ours = plain.gated_backward(grad, gate.detach(), up.detach(), activation)
    assert_alike(ours, (gate.grad, up.grad), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotate_pad_and_back(dtype: torch.dtype) -> None:
    heads, places = some(7, 6, 16, dtype=dtype), torch.tensor([0, 1, 2, 5, 6, 10, 11])
    cos, sin = some(7, 1, 8, dtype=dtype, seed=1), some(7, 1, 8, dtype=dtype, seed=2)
    ours = kernels.rotate_pad(heads, cos, sin, 5, places, 15)
    assert_alike(ours, plain.rotate_pad(heads, cos, sin, 5, places, 15), dtype)
    untouched = [place for place in range(15) if place not in places.tolist()]
    assert not ours[untouched].any()
    grads = (some(15, 4, 16, dtype=dtype), some(15, 1, 16, dtype=dtype), some(15, 1, 16, dtype=dtype, seed=3))
    assert_alike(kernels.unpad_rotate(grads, cos, sin, places), plain.unpad_rotate(grads, cos, sin, places), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_copies_and_their_sum(dtype: torch.dtype) -> None:
    x, inner = some(13, 48, dtype=dtype), some(3, 13, 48, dtype=dtype)
    masks = some(3, 13, 48, dtype=torch.float32, seed=1) > -1.0
    assert_alike(kernels.masked_copies(x, masks, 1.25), plain.masked_copies(x, masks, 1.25), dtype)
    ours, theirs = x.clone(), x.clone()
    kernels.add_masked(ours, inner, masks, 1.25)
    plain.add_masked(theirs, inner, masks, 1.25)
    assert_alike(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_of_a_wider_tensor(dtype: torch.dtype) -> None:
    wide, gain = some(150, 100, dtype=dtype), some(70, dtype=torch.float32)
    x, other = wide[:, 4:74], some(150, 70, dtype=dtype, seed=1)
    assert_alike(kernels.scaled_columns(x, gain), plain.scaled_columns(x, gain), dtype)
    assert error(kernels.column_dot(x, other), (x.double() * other.double()).sum(0).float()) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_combine(dtype: torch.dtype) -> None:
    start = [some(50, 70, dtype=dtype, seed=seed) for seed in range(3)]
    gain_less_one = some(70, dtype=torch.float32)
    base, direction, delta = (tensor.clone() for tensor in start)
    kernels.combine(base, direction, delta, gain_less_one)
    plain.combine(start[0], start[1], start[2], gain_less_one)
    assert_alike((base, direction), (start[0], start[1]), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_token_losses(dtype: torch.dtype, softcap: float | None) -> None:
    logits, labels = some(9, 5000, dtype=dtype) * 3, torch.arange(9) * 500
    labels[3] = -100
    losses, slope = kernels.token_losses(logits.clone(), labels, softcap)
    expected, expected_slope = plain.token_losses(logits.clone(), labels, softcap)
    assert error(losses, expected) < 1e-5
    assert_alike(slope, expected_slope, dtype)
    assert losses[3] == 0 and not slope[3].any()


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_slope_is_the_derivative_of_its_loss(softcap: float | None) -> None:
    logits = some(4, 30, dtype=torch.float32).requires_grad_()
    capped = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    torch.nn.functional.cross_entropy(capped, torch.tensor([1, 2, 3, 4]), reduction="sum").backward()
    _, slope = plain.token_losses(logits.detach().clone(), torch.tensor([1, 2, 3, 4]), softcap)
    assert logits.grad is not None
    assert error(slope, logits.grad) < 1e-5


def test_a_label_that_is_nearly_sure_keeps_its_slope_in_bf16() -> None:
    logits = torch.zeros(1, 8, dtype=torch.bfloat16)
    logits[0, 2] = 9.0
    for passes in (plain, kernels):
        _, slope = passes.token_losses(logits.clone(), torch.tensor([2]), None)
        assert float(slope[0, 2]) == pytest.approx(-7 / (torch.e**9 + 7), rel=0.01)


def test_a_cpu_takes_plain_torch() -> None:
    assert passes_for(torch.device("cpu")) is plain
