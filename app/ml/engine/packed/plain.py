"""The elementwise passes of `fused` in plain torch: any device, few launches, no tensor kept in fp32."""

import torch
from torch.ops import aten  # type: ignore[import-not-found]


def add_norm(
    x: torch.Tensor, delta: torch.Tensor | None, gain: torch.Tensor, eps: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the sum `[N, D]` in x's dtype, its RMS norm in `dtype`, and 1 / root mean square `[N, 1]` fp32."""
    total = x if delta is None else x + delta
    length = torch.linalg.vector_norm(total, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.rsqrt(length.square_().div_(total.shape[-1]).add_(eps))
    y = torch.empty_like(total, dtype=dtype)
    torch.mul(total * scale, gain, out=y)
    return total, y, scale


def norm_backward(
    grad: torch.Tensor, residual_grad: torch.Tensor | None, x: torch.Tensor, scale: torch.Tensor, gain: torch.Tensor
) -> torch.Tensor:
    """Returns the gradient of a norm's input, plus that of the residual stream beside it, in x's dtype."""
    weighted = grad * gain
    unit = x * scale
    dot = torch.linalg.vecdot(weighted, unit)[:, None] / x.shape[-1]
    weighted.addcmul_(unit, dot, value=-1)
    out = torch.empty_like(x)
    if residual_grad is None:
        return torch.mul(weighted, scale, out=out)
    return torch.addcmul(residual_grad, weighted, scale, out=out)


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """Returns `act(gate) * up` [N, I]; `activation` is `gelu_pytorch_tanh` or `silu`."""
    return _act(gate, activation).mul_(up)


def gated_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients of gate and up."""
    into_up = _act(gate, activation).mul_(grad)
    above = grad * up
    if activation == "silu":
        return aten.silu_backward(above, gate), into_up
    return aten.gelu_backward(above, gate, approximate="tanh"), into_up


def rotate_pad(
    heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, count: int, places: torch.Tensor, size: int
) -> torch.Tensor:
    """Returns `[size, H, D]`: `heads` [N, H, D] at `places`, its first `count` heads rotated by cos, sin `[N, 1, D / 2]`."""
    # Zeros, not whatever lies in memory: a padded query's NaN would reach the real keys' gradients.
    padded = heads.new_zeros(size, *heads.shape[1:])
    return padded.index_copy_(0, places, _rotated(heads, cos, sin, count, 1))


def unpad_rotate(
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """Returns the gradient of `rotate_pad`'s heads from those of query, key and value, each `[size, h, D]`."""
    padded = torch.cat(grads, dim=1)
    return _rotated(padded.index_select(0, places), cos, sin, grads[0].shape[1] + grads[1].shape[1], -1)


def add_masked(base: torch.Tensor, inner: torch.Tensor, masks: torch.Tensor, factor: float) -> None:
    """Adds `factor` times what `masks` keeps of `inner`, both `[m, N, I]`, to `base` [N, I]."""
    for part, mask in zip(inner, masks, strict=True):
        base += aten.native_dropout_backward(part, mask, factor)


def column_dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns the sum over rows of `left * right`, both `[N, O]`, as `[O]` fp32."""
    return (left * right).sum(0, dtype=torch.float32)


def masked_copies(x: torch.Tensor, masks: torch.Tensor, factor: float) -> torch.Tensor:
    """Returns `[m, N, I]`: for each of `masks` what it keeps of `x` [N, I], times `factor`."""
    return aten.native_dropout_backward(x.expand_as(masks), masks, factor)


def scaled_columns(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Returns `x` [N, O] times `gain` [O] fp32, in x's dtype."""
    return torch.mul(x, gain, out=torch.empty(x.shape, dtype=x.dtype, device=x.device))


def combine(base: torch.Tensor, direction: torch.Tensor, delta: torch.Tensor, gain_less_one: torch.Tensor) -> None:
    """Adds `delta` to `direction`, and `delta` and `gain_less_one` times the new direction to `base`; all `[N, O]`."""
    direction.add_(delta)
    base.add_(delta).addcmul_(direction, gain_less_one)


def token_losses(logits: torch.Tensor, labels: torch.Tensor, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns -log p(label) of `logits` [S, V] as `[S]` fp32, and its slope by the logits, `[S, V]` in their dtype.

    Both are 0 where a label is negative. The logits may be overwritten.
    """
    capped = logits if softcap is None else logits.float().div_(softcap).tanh_().mul_(softcap)
    log_probabilities = torch.log_softmax(capped, dim=-1, dtype=torch.float32)
    is_kept = labels[:, None] >= 0
    wanted = labels[:, None].clamp(min=0)
    of_label = log_probabilities.gather(1, wanted)
    slope = torch.exp(log_probabilities, out=torch.empty_like(logits))
    # p - 1 of the label before it is rounded: at p = 0.999 nothing of it would survive in bf16.
    slope.scatter_(1, wanted, torch.expm1(of_label).to(slope.dtype)).mul_(is_kept)
    if softcap is not None:
        slope.mul_(1 - (capped / softcap).square())
    return (of_label * is_kept).neg().squeeze(1), slope


def _act(gate: torch.Tensor, activation: str) -> torch.Tensor:
    if activation == "silu":
        return torch.nn.functional.silu(gate)
    return torch.nn.functional.gelu(gate, approximate="tanh")


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, count: int, direction: int) -> torch.Tensor:
    half = heads.shape[-1] // 2
    first, second = heads[:, :count, :half], heads[:, :count, half:]
    out = torch.empty_like(heads)
    torch.addcmul(first * cos, second, sin, value=-direction, out=out[:, :count, :half])
    torch.addcmul(second * cos, first, sin, value=direction, out=out[:, :count, half:])
    out[:, count:] = heads[:, count:]
    return out
