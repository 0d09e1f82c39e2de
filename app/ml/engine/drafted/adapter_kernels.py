"""Each token's own adapter as two Triton kernels: down to the rank, and up again with DoRA's gain."""

from functools import reduce
from math import gcd

import torch
import triton
import triton.language as tl

from app.ml.engine.drafted.network import SlotLayer
from app.ml.engine.drafted.passes import PassTensors

# Sizes that were fastest on an H100 for passes of 64 and 128 tokens, rank 128.
_SMALL_PASS, _SMALL_PARTS = 256, 2
_SHRINK_COLUMNS, _SHRINK_INPUTS = 32, 256
_EXPAND_COLUMNS, _EXPAND_INNER = 64, 128


@triton.jit
def _shrink_kernel(  # type: ignore[no-untyped-def]
    x,
    factor_a,
    low,
    blocks,
    count,
    inputs,
    columns,
    slot_stride,
    low_stride,
    PARTS: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    block = tl.program_id(0)
    first = tl.load(blocks + block)
    length = tl.load(blocks + count + block)
    slot = tl.load(blocks + 2 * count + block)
    if length > 0:
        rows = tl.arange(0, TOKENS)
        inside = rows < length
        outs = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        total = tl.zeros((TOKENS, COLUMNS), dtype=tl.float32)
        part = tl.program_id(2)
        for start in range(part * INPUTS, inputs, PARTS * INPUTS):
            ins = start + tl.arange(0, INPUTS)
            a = tl.load(
                x + (first + rows)[:, None] * inputs + ins[None, :], mask=inside[:, None] & (ins < inputs)[None, :], other=0.0
            )
            b = tl.load(
                factor_a + slot * slot_stride + outs[:, None] * inputs + ins[None, :],
                mask=(outs < columns)[:, None] & (ins < inputs)[None, :],
                other=0.0,
            )
            total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
        place = low + part * low_stride + (first + rows)[:, None] * columns + outs[None, :]
        tl.store(place, total.to(low.dtype.element_ty), mask=inside[:, None] & (outs < columns)[None, :])


@triton.jit
def _expand_kernel(  # type: ignore[no-untyped-def]
    y,
    low,
    scaled_b,
    gain,
    blocks,
    target_of,
    count,
    outputs,
    low_columns,
    slot_stride,
    gain_stride,
    low_stride,
    PARTS: tl.constexpr,
    RANK: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    block = tl.program_id(0)
    first = tl.load(blocks + block)
    length = tl.load(blocks + count + block)
    slot = tl.load(blocks + 2 * count + block)
    target = tl.load(target_of + tl.program_id(1))
    if length > 0:
        rows = tl.arange(0, TOKENS)
        inside = rows < length
        outs = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        place = y + (first + rows)[:, None] * outputs + outs[None, :]
        mask = inside[:, None] & (outs < outputs)[None, :]
        total = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        if target >= 0:
            for start in range(0, RANK, INNER):
                inner = start + tl.arange(0, INNER)
                at = low + (first + rows)[:, None] * low_columns + target * RANK + inner[None, :]
                sums = tl.load(at, mask=inside[:, None], other=0.0)
                for part in tl.static_range(1, PARTS):
                    sums += tl.load(at + part * low_stride, mask=inside[:, None], other=0.0)
                a = sums.to(scaled_b.dtype.element_ty)
                b = tl.load(
                    scaled_b + slot * slot_stride + outs[:, None] * RANK + inner[None, :],
                    mask=(outs < outputs)[:, None],
                    other=0.0,
                )
                total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
        if HAS_GAIN:
            total *= tl.load(gain + slot * gain_stride + outs, mask=outs < outputs, other=1.0)[None, :]
        tl.store(place, total.to(y.dtype.element_ty), mask=mask)


def shrink(x: torch.Tensor, slots: SlotLayer, layer: int, tokens: PassTensors) -> torch.Tensor:
    """Returns `[parts, N, m * r]` fp32: parts of each token's `xA'`, still to be summed."""
    blocks, shape = tokens.adapter_blocks, tokens.shape
    factor_a = slots.factor_a[layer]
    low_columns, inputs = factor_a.shape[1], factor_a.shape[2]
    # A small pass has too few blocks to fill a card: each sums a part of the inputs.
    parts = _SMALL_PARTS if shape.tokens <= _SMALL_PASS else 1
    low = torch.empty(parts, x.shape[0], low_columns, dtype=torch.float32, device=x.device)
    _shrink_kernel[(shape.adapter_blocks, triton.cdiv(low_columns, _SHRINK_COLUMNS), parts)](
        x,
        factor_a,
        low,
        blocks,
        shape.adapter_blocks,
        inputs,
        low_columns,
        factor_a.stride(0),
        low.stride(0),
        parts,
        max(16, shape.block_tokens),
        _SHRINK_COLUMNS,
        _SHRINK_INPUTS,
    )
    return low


def expand(y: torch.Tensor, low: torch.Tensor, slots: SlotLayer, layer: int, tokens: PassTensors) -> None:
    """Adds `s low B'` to each token's `y` and applies its gain, in place."""
    blocks, shape = tokens.adapter_blocks, tokens.shape
    scaled_b = slots.scaled_b[layer]
    outputs = y.shape[1]
    columns, target_of = _target_blocks(slots, outputs, y.device)
    gain = slots.gain[layer] if slots.gain is not None else scaled_b
    _expand_kernel[(shape.adapter_blocks, triton.cdiv(outputs, columns))](
        y,
        low,
        scaled_b,
        gain,
        blocks,
        target_of,
        shape.adapter_blocks,
        outputs,
        low.shape[2],
        scaled_b.stride(0),
        gain.stride(0),
        low.stride(0),
        low.shape[0],
        slots.rank,
        slots.gain is not None,
        max(16, shape.block_tokens),
        columns,
        min(_EXPAND_INNER, slots.rank),
    )


_target_maps: dict[tuple[object, ...], tuple[int, torch.Tensor]] = {}


def _target_blocks(slots: SlotLayer, outputs: int, device: torch.device) -> tuple[int, torch.Tensor]:
    """Returns how many outputs a block has, and each block's place among the adapted targets, -1 where it has none."""
    key = (outputs, *((columns.start, columns.stop) for columns in slots.columns), str(device))
    if key not in _target_maps:
        edges = [outputs, *(edge for columns in slots.columns for edge in (columns.start, columns.stop))]
        shared = reduce(gcd, edges)
        width = min(_EXPAND_COLUMNS, shared & -shared)
        places = []
        for start in range(0, outputs, width):
            inside = [place for place, columns in enumerate(slots.columns) if columns.start <= start < columns.stop]
            places.append(inside[0] if inside else -1)
        _target_maps[key] = (width, torch.tensor(places, dtype=torch.int32, device=device))
    return _target_maps[key]
