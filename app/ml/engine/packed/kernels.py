"""The elementwise passes of `fused` as Triton kernels: one pass over memory each, fp32 inside, one rounding at the end.

Plain Triton without vendor intrinsics; rows up to 16,384 wide. Imported only where Triton runs.
"""

import torch
import triton
import triton.language as tl

_BLOCK = 1024


@triton.jit
def _add_norm_kernel(x, delta, gain, total, y, scale, width, eps, HAS_DELTA: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(x + row * width + columns, mask=inside, other=0.0)
    if HAS_DELTA:
        added = tl.load(delta + row * width + columns, mask=inside, other=0.0)
        # Rounded as the residual stream is, so that the norm sees what later layers see.
        value = (value.to(tl.float32) + added.to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + row * width + columns, value, mask=inside)
    wide = value.to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / width + eps)
    tl.store(scale + row, inverse)
    factor = tl.load(gain + columns, mask=inside, other=0.0)
    tl.store(y + row * width + columns, (wide * inverse * factor).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward_kernel(grad, residual, x, scale, gain, out, width, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    inverse = tl.load(scale + row)
    unit = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32) * inverse
    weighted = tl.load(grad + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    weighted *= tl.load(gain + columns, mask=inside, other=0.0)
    dot = tl.sum(weighted * unit, axis=0) / width
    result = (weighted - unit * dot) * inverse
    if HAS_RESIDUAL:
        result += tl.load(residual + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    # tanh(x) = 2 sigmoid(2 x) - 1, exact to fp32's rounding for what a GELU feeds it
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def _activated(gate, SILU: tl.constexpr):  # type: ignore[no-untyped-def]
    if SILU:
        sigmoid = 1.0 / (1.0 + tl.exp(-gate))
        value = gate * sigmoid
        slope = sigmoid * (1.0 + gate * (1.0 - sigmoid))
    else:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        curve = _tanh(inner)
        value = 0.5 * gate * (1.0 + curve)
        slope = 0.5 * (1.0 + curve) + 0.5 * gate * (1.0 - curve * curve) * 0.7978845608028654 * (
            1.0 + 3.0 * 0.044715 * gate * gate
        )
    return value, slope


@triton.jit
def _gated_kernel(gate, up, out, count, SILU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    value, _ = _activated(tl.load(gate + places, mask=inside, other=0.0).to(tl.float32), SILU)
    value *= tl.load(up + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward_kernel(grad, gate, up, into_gate, into_up, count, SILU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    value, slope = _activated(tl.load(gate + places, mask=inside, other=0.0).to(tl.float32), SILU)
    above = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(up + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(into_gate + places, (above * factor * slope).to(into_gate.dtype.element_ty), mask=inside)
    tl.store(into_up + places, (above * value).to(into_up.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_pad_kernel(heads, cos, sin, places, out, count, total, HALF: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < HALF
    source = heads + (token * total + head) * 2 * HALF + columns
    first = tl.load(source, mask=inside, other=0.0)
    second = tl.load(source + HALF, mask=inside, other=0.0)
    target = out + (tl.load(places + token) * total + head) * 2 * HALF + columns
    if head < count:
        c = tl.load(cos + token * HALF + columns, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + token * HALF + columns, mask=inside, other=0.0).to(tl.float32)
        a, b = first.to(tl.float32), second.to(tl.float32)
        first = (a * c - b * s).to(first.dtype)
        second = (b * c + a * s).to(second.dtype)
    tl.store(target, first, mask=inside)
    tl.store(target + HALF, second, mask=inside)


@triton.jit
def _unpad_rotate_kernel(  # type: ignore[no-untyped-def]
    query, key, value, cos, sin, places, out, queries, keys, total, HALF: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < HALF
    place = tl.load(places + token)
    if head < queries:
        source = query + (place * queries + head) * 2 * HALF + columns
    elif head < queries + keys:
        source = key + (place * keys + head - queries) * 2 * HALF + columns
    else:
        source = value + (place * keys + head - queries - keys) * 2 * HALF + columns
    first = tl.load(source, mask=inside, other=0.0)
    second = tl.load(source + HALF, mask=inside, other=0.0)
    target = out + (token * total + head) * 2 * HALF + columns
    if head < queries + keys:
        c = tl.load(cos + token * HALF + columns, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + token * HALF + columns, mask=inside, other=0.0).to(tl.float32)
        a, b = first.to(tl.float32), second.to(tl.float32)
        first = (a * c + b * s).to(first.dtype)
        second = (b * c - a * s).to(second.dtype)
    tl.store(target, first, mask=inside)
    tl.store(target + HALF, second, mask=inside)


@triton.jit
def _masked_sum_kernel(base, inner, masks, count, factor, LAYERS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    total = tl.load(base + places, mask=inside, other=0.0).to(tl.float32)
    for layer in tl.static_range(LAYERS):
        kept = tl.load(masks + layer * count + places, mask=inside, other=0)
        part = tl.load(inner + layer * count + places, mask=inside, other=0.0).to(tl.float32)
        total += tl.where(kept != 0, part * factor, 0.0)
    tl.store(base + places, total.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _column_dot_kernel(left, right, out, rows, width, left_stride, right_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    mask = (row < rows)[:, None] & inside[None, :]
    a = tl.load(left + row[:, None] * left_stride + columns[None, :], mask=mask, other=0.0)
    b = tl.load(right + row[:, None] * right_stride + columns[None, :], mask=mask, other=0.0)
    total = tl.sum(a.to(tl.float32) * b.to(tl.float32), axis=0)
    tl.store(out + tl.program_id(1).to(tl.int64) * width + columns, total, mask=inside)


@triton.jit
def _masked_copies_kernel(x, masks, out, count, factor, LAYERS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    value = tl.load(x + places, mask=inside, other=0.0).to(tl.float32) * factor
    for layer in tl.static_range(LAYERS):
        kept = tl.load(masks + layer * count + places, mask=inside, other=0)
        tl.store(out + layer * count + places, tl.where(kept != 0, value, 0.0).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _scale_columns_kernel(x, gain, out, width, x_stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    value *= tl.load(gain + columns, mask=inside, other=0.0)
    tl.store(out + row * width + columns, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _combine_kernel(base, direction, delta, gain_less_one, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * width
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    places += columns
    added = tl.load(delta + places, mask=inside, other=0.0).to(tl.float32)
    towards = tl.load(direction + places, mask=inside, other=0.0).to(tl.float32) + added
    value = tl.load(base + places, mask=inside, other=0.0).to(tl.float32) + added
    value += tl.load(gain_less_one + columns, mask=inside, other=0.0) * towards
    tl.store(direction + places, towards.to(direction.dtype.element_ty), mask=inside)
    tl.store(base + places, value.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _token_losses_kernel(logits, labels, losses, cap, WIDTH: tl.constexpr, HAS_CAP: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * WIDTH
    label = tl.load(labels + row)
    is_kept = label >= 0
    columns = tl.arange(0, BLOCK)
    highest = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for block in range(0, WIDTH, BLOCK):
        inside = block + columns < WIDTH
        value = tl.load(start + block + columns, mask=inside, other=float("-inf")).to(tl.float32)
        if HAS_CAP:
            value = tl.where(inside, cap * _tanh(value / cap), float("-inf"))
        now = tl.maximum(highest, value)
        # A lane that has met nothing yet stays empty: -inf less -inf would be no number.
        seen = now > float("-inf")
        total = tl.where(
            seen, total * tl.exp(highest - tl.where(seen, now, 0.0)) + tl.exp(value - tl.where(seen, now, 0.0)), total
        )
        highest = now
    top = tl.max(highest, axis=0)
    log_sum = top + tl.log(tl.sum(total * tl.exp(highest - top), axis=0))
    of_label = tl.load(start + tl.where(is_kept, label, 0)).to(tl.float32)
    if HAS_CAP:
        of_label = cap * _tanh(of_label / cap)
    tl.store(losses + row, tl.where(is_kept, log_sum - of_label, 0.0))
    tl.debug_barrier()
    for block in range(0, WIDTH, BLOCK):
        inside = block + columns < WIDTH
        value = tl.load(start + block + columns, mask=inside, other=0.0).to(tl.float32)
        slope = 1.0
        if HAS_CAP:
            curve = _tanh(value / cap)
            value = cap * curve
            slope = 1.0 - curve * curve
        probability = tl.exp(value - log_sum) - tl.where(block + columns == label, 1.0, 0.0)
        result = tl.where(is_kept, probability * slope, 0.0)
        tl.store(start + block + columns, result.to(logits.dtype.element_ty), mask=inside)


def add_norm(
    x: torch.Tensor, delta: torch.Tensor | None, gain: torch.Tensor, eps: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `plain.add_norm`."""
    rows, width = x.shape
    total = x if delta is None else torch.empty_like(x)
    y = torch.empty_like(x, dtype=dtype)
    scale = x.new_empty(rows, 1, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    _add_norm_kernel[(rows,)](
        x, x if delta is None else delta, gain, total, y, scale, width, eps, delta is not None, block, num_warps=_warps(block)
    )
    return total, y, scale


def norm_backward(
    grad: torch.Tensor, residual_grad: torch.Tensor | None, x: torch.Tensor, scale: torch.Tensor, gain: torch.Tensor
) -> torch.Tensor:
    """As `plain.norm_backward`."""
    rows, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    residual = grad if residual_grad is None else residual_grad.contiguous()
    has_residual = residual_grad is not None
    _norm_backward_kernel[(rows,)](
        grad.contiguous(), residual, x, scale, gain, out, width, has_residual, block, num_warps=_warps(block)
    )
    return out


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """As `plain.gated`."""
    out = torch.empty_like(gate)
    _gated_kernel[(triton.cdiv(gate.numel(), _BLOCK),)](gate, up, out, gate.numel(), activation == "silu", _BLOCK)
    return out


def gated_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `plain.gated_backward`."""
    into_gate, into_up = torch.empty_like(gate), torch.empty_like(up)
    count = gate.numel()
    _gated_backward_kernel[(triton.cdiv(count, _BLOCK),)](
        grad.contiguous(), gate, up, into_gate, into_up, count, activation == "silu", _BLOCK
    )
    return into_gate, into_up


def rotate_pad(
    heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, count: int, places: torch.Tensor, size: int
) -> torch.Tensor:
    """As `plain.rotate_pad`."""
    tokens, total, width = heads.shape
    out = heads.new_zeros(size, total, width)
    block = triton.next_power_of_2(width // 2)
    _rotate_pad_kernel[(tokens, total)](heads, cos, sin, places, out, count, total, width // 2, block, num_warps=1)
    return out


def unpad_rotate(
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """As `plain.unpad_rotate`."""
    query, key, value = (grad.contiguous() for grad in grads)
    queries, keys, width = query.shape[1], key.shape[1], query.shape[2]
    total, tokens = queries + 2 * keys, places.shape[0]
    out = query.new_empty(tokens, total, width)
    block = triton.next_power_of_2(width // 2)
    _unpad_rotate_kernel[(tokens, total)](
        query, key, value, cos, sin, places, out, queries, keys, total, width // 2, block, num_warps=1
    )
    return out


def add_masked(base: torch.Tensor, inner: torch.Tensor, masks: torch.Tensor, factor: float) -> None:
    """As `plain.add_masked`."""
    count = base.numel()
    grid = (triton.cdiv(count, _BLOCK),)
    _masked_sum_kernel[grid](base, inner, masks.view(torch.uint8), count, factor, inner.shape[0], _BLOCK)


def column_dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """As `plain.column_dot`."""
    rows, width = left.shape
    tile_rows, tile_columns = 128, 64
    grid = (triton.cdiv(width, tile_columns), triton.cdiv(rows, tile_rows))
    out = left.new_empty(grid[1], width, dtype=torch.float32)
    _column_dot_kernel[grid](left, right, out, rows, width, left.stride(0), right.stride(0), tile_rows, tile_columns)
    return out.sum(0)


def masked_copies(x: torch.Tensor, masks: torch.Tensor, factor: float) -> torch.Tensor:
    """As `plain.masked_copies`."""
    out = torch.empty(masks.shape, dtype=x.dtype, device=x.device)
    count = x.numel()
    grid = (triton.cdiv(count, _BLOCK),)
    _masked_copies_kernel[grid](x, masks.view(torch.uint8), out, count, factor, masks.shape[0], _BLOCK)
    return out


def scaled_columns(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """As `plain.scaled_columns`."""
    rows, width = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    block = min(_BLOCK, triton.next_power_of_2(width))
    _scale_columns_kernel[(rows, triton.cdiv(width, block))](x, gain, out, width, x.stride(0), block)
    return out


def combine(base: torch.Tensor, direction: torch.Tensor, delta: torch.Tensor, gain_less_one: torch.Tensor) -> None:
    """As `plain.combine`."""
    rows, width = base.shape
    block = min(_BLOCK, triton.next_power_of_2(width))
    _combine_kernel[(rows, triton.cdiv(width, block))](base, direction, delta, gain_less_one, width, block)


def token_losses(logits: torch.Tensor, labels: torch.Tensor, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """As `plain.token_losses`; the slopes take the logits' place."""
    rows, width = logits.shape
    losses = logits.new_empty(rows, dtype=torch.float32)
    block = min(4096, triton.next_power_of_2(width))
    _token_losses_kernel[(rows,)](logits, labels, losses, softcap or 1.0, width, softcap is not None, block, num_warps=8)
    return losses, logits


def _warps(block: int) -> int:
    return min(16, max(1, block // 256))
