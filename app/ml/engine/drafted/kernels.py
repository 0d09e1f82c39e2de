"""The steps of a pass as Triton kernels: no padding, every token finds its row and its adapter by itself.

Plain Triton without vendor intrinsics; imported only where Triton runs. Work is cut into blocks of tokens that share a row or
an adapter, listed in `PassTensors`; a block without tokens does nothing, so that one grid serves every pass of a shape.
"""

from functools import reduce
from math import gcd

import torch
import triton
import triton.language as tl

from app.ml.engine.drafted.network import CachedNetwork, SlotLayer
from app.ml.engine.drafted.passes import PassTensors
from app.ml.engine.drafted.rows import KeyValueRows

_SMALL_PASS, _SMALL_PARTS = 256, 4


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


@triton.jit
def _rotate_store_kernel(  # type: ignore[no-untyped-def]
    heads,
    gain,
    angles,
    positions,
    places,
    query,
    keys,
    values,
    eps,
    query_heads,
    kept_heads,
    HALF: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < HALF
    source = heads + (token * (query_heads + 2 * kept_heads) + head) * 2 * HALF + columns
    first = tl.load(source, mask=inside, other=0.0)
    second = tl.load(source + HALF, mask=inside, other=0.0)
    place = tl.load(places + token)
    if head < query_heads + kept_heads:
        a, b = first.to(tl.float32), second.to(tl.float32)
        if HAS_GAIN:
            scale = 1.0 / tl.sqrt((tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)) / (2 * HALF) + eps)
            a = a * scale * tl.load(gain + head * 2 * HALF + columns, mask=inside, other=0.0)
            b = b * scale * tl.load(gain + head * 2 * HALF + HALF + columns, mask=inside, other=0.0)
            # Rounded as the eager path and transformers round the norm.
            a = a.to(first.dtype).to(tl.float32)
            b = b.to(first.dtype).to(tl.float32)
        at = angles + tl.load(positions + token) * 2 * HALF + columns
        cos = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        sin = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
        first = (a * cos - b * sin).to(first.dtype)
        second = (b * cos + a * sin).to(second.dtype)
    if head < query_heads:
        target = query + (token * query_heads + head) * 2 * HALF + columns
    elif head < query_heads + kept_heads:
        target = keys + (place * kept_heads + head - query_heads) * 2 * HALF + columns
    else:
        target = values + (place * kept_heads + head - query_heads - kept_heads) * 2 * HALF + columns
    tl.store(target, first, mask=inside)
    tl.store(target + HALF, second, mask=inside)


@triton.jit
def _attend_kernel(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    key_positions,
    out,
    blocks,
    starts,
    linear,
    base,
    words,
    positions,
    count,
    query_heads,
    kept_heads,
    scale,
    softcap,
    window,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
    WORDS: tl.constexpr,
):
    block = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(blocks + block)
    length = tl.load(blocks + count + block)
    extent = tl.load(blocks + 2 * count + block)
    if length > 0:
        kept = head // (query_heads // kept_heads)
        rows = first + tl.arange(0, TOKENS)
        inside = tl.arange(0, TOKENS) < length
        columns = tl.arange(0, BLOCK)
        fits = columns < SIZE
        start = tl.load(starts + first)
        tree = tl.load(base + first)
        seen = tl.load(linear + rows, mask=inside, other=1)
        at = tl.load(positions + rows, mask=inside, other=0)
        q = tl.load(
            query + (rows[:, None] * query_heads + head) * SIZE + columns[None, :],
            mask=inside[:, None] & fits[None, :],
            other=0.0,
        )
        most = tl.full((TOKENS,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((TOKENS,), dtype=tl.float32)
        mixed = tl.zeros((TOKENS, BLOCK), dtype=tl.float32)
        for begin in range(0, extent, KEYS):
            column = begin + tl.arange(0, KEYS)
            there = column < extent
            place = (start + column) * kept_heads + kept
            k = tl.load(keys + place[:, None] * SIZE + columns[None, :], mask=there[:, None] & fits[None, :], other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            if HAS_SOFTCAP:
                scores = softcap * (2.0 / (1.0 + tl.exp(-2.0 * scores / softcap)) - 1.0)
            behind = column - tree
            in_tree = there & (behind >= 0) & (behind < 64 * WORDS)
            word = tl.load(
                words + rows[:, None] * WORDS + (behind >> 6)[None, :], mask=inside[:, None] & in_tree[None, :], other=0
            )
            bit = (word >> (behind & 63)[None, :]) & 1
            visible = (column[None, :] < seen[:, None]) | ((bit == 1) & in_tree[None, :])
            if HAS_WINDOW:
                key_at = tl.load(key_positions + start + column, mask=there, other=0)
                visible = visible & (at[:, None] - key_at[None, :] < window)
            scores = tl.where(visible & there[None, :], scores, float("-inf"))
            larger = tl.maximum(most, tl.max(scores, axis=1))
            # A block of keys that a token does not see at all leaves it as it was.
            safe = tl.where(larger == float("-inf"), 0.0, larger)
            weight = tl.exp(scores - safe[:, None])
            fade = tl.exp(most - safe)
            total = total * fade + tl.sum(weight, axis=1)
            v = tl.load(values + place[:, None] * SIZE + columns[None, :], mask=there[:, None] & fits[None, :], other=0.0)
            mixed = tl.dot(weight.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
            most = larger
        mixed = mixed / total[:, None]
        target = out + (rows[:, None] * query_heads + head) * SIZE + columns[None, :]
        tl.store(target, mixed.to(out.dtype.element_ty), mask=inside[:, None] & fits[None, :])


@triton.jit
def _gate_kernel(both, out, width, SILU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(both + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        value = gate / (1.0 + tl.exp(-gate))
    else:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        value = gate / (1.0 + tl.exp(-2.0 * inner))
    # Rounded as torch's activation rounds.
    value = value.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + columns, (value * up).to(out.dtype.element_ty), mask=inside)


class KernelSteps:
    """The `Steps` of one pass; all of it may be captured."""

    def __init__(self, network: CachedNetwork, rows: KeyValueRows, tokens: PassTensors) -> None:
        """Writes where the pass's tokens stand."""
        self._network, self._anatomy, self._rows, self._tokens = network, network.anatomy, rows, tokens
        rows.positions.index_copy_(0, tokens.places, tokens.positions)

    def adapt(self, y: torch.Tensor, x: torch.Tensor, slots: SlotLayer, layer: int) -> None:
        """Applies each token's adapter in place."""
        blocks, shape = self._tokens.adapter_blocks, self._tokens.shape
        if not shape.adapter_blocks:
            return
        factor_a, scaled_b = slots.factor_a[layer], slots.scaled_b[layer]
        low_columns, inputs, outputs = factor_a.shape[1], factor_a.shape[2], y.shape[1]
        # A small pass has too few blocks to fill a card: each sums a part of the inputs.
        parts = _SMALL_PARTS if shape.tokens <= _SMALL_PASS else 1
        low = torch.empty(parts, x.shape[0], low_columns, dtype=torch.float32, device=x.device)
        tokens = max(16, shape.block_tokens)
        _shrink_kernel[(shape.adapter_blocks, triton.cdiv(low_columns, 32), parts)](
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
            tokens,
            32,
            128,
        )
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
            low_columns,
            scaled_b.stride(0),
            gain.stride(0),
            low.stride(0),
            parts,
            slots.rank,
            slots.gain is not None,
            tokens,
            columns,
            min(64, slots.rank),
        )

    def rotate_store(self, heads: torch.Tensor, gain: torch.Tensor | None, eps: float, layer: int) -> torch.Tensor:
        """Norms, rotates, stores keys and values, returns the queries."""
        anatomy, tokens, half = self._anatomy, self._tokens, heads.shape[2] // 2
        query = torch.empty(heads.shape[0], anatomy.heads, heads.shape[2], dtype=heads.dtype, device=heads.device)
        _rotate_store_kernel[heads.shape[:2]](
            heads,
            gain if gain is not None else heads,
            self._network.angles[anatomy.layer_types[layer]],
            tokens.positions,
            tokens.places,
            query,
            self._rows.keys[layer],
            self._rows.values[layer],
            eps,
            anatomy.heads,
            anatomy.key_value_heads,
            half,
            gain is not None,
            triton.next_power_of_2(half),
            num_warps=1,
        )
        return query

    def attend(self, query: torch.Tensor, layer: int) -> torch.Tensor:
        """Attends over the rows."""
        anatomy, tokens, rows = self._anatomy, self._tokens, self._rows
        blocks = tokens.shape.token_blocks
        out = torch.empty(query.shape[0], anatomy.heads * anatomy.head_dim, dtype=query.dtype, device=query.device)
        window = anatomy.windows[layer]
        _attend_kernel[(blocks, anatomy.heads)](
            query,
            rows.keys[layer],
            rows.values[layer],
            rows.positions,
            out,
            tokens.token_blocks,
            tokens.starts,
            tokens.linear,
            tokens.base,
            tokens.words,
            tokens.positions,
            blocks,
            anatomy.heads,
            anatomy.key_value_heads,
            anatomy.attention_scale,
            anatomy.attention_softcap or 1.0,
            window or 0,
            anatomy.attention_softcap is not None,
            window is not None and window < rows.widest,
            anatomy.head_dim,
            max(16, tokens.shape.block_tokens),
            32,
            triton.next_power_of_2(anatomy.head_dim),
            tokens.words.shape[1],
            num_stages=2,
        )
        return out

    def gate(self, both: torch.Tensor, activation: str) -> torch.Tensor:
        """Gates."""
        width = both.shape[1] // 2
        out = torch.empty(both.shape[0], width, dtype=both.dtype, device=both.device)
        block = min(1024, triton.next_power_of_2(width))
        _gate_kernel[(both.shape[0], triton.cdiv(width, block))](both, out, width, activation == "silu", block)
        return out


_target_maps: dict[tuple[object, ...], tuple[int, torch.Tensor]] = {}


def _target_blocks(slots: SlotLayer, outputs: int, device: torch.device) -> tuple[int, torch.Tensor]:
    """Returns how many outputs a block has, and each block's place among the adapted targets, -1 where it has none."""
    key = (outputs, *((columns.start, columns.stop) for columns in slots.columns), str(device))
    if key not in _target_maps:
        edges = [outputs, *(edge for columns in slots.columns for edge in (columns.start, columns.stop))]
        shared = reduce(gcd, edges)
        width = min(64, shared & -shared)
        places = []
        for start in range(0, outputs, width):
            inside = [place for place, columns in enumerate(slots.columns) if columns.start <= start < columns.stop]
            places.append(inside[0] if inside else -1)
        _target_maps[key] = (width, torch.tensor(places, dtype=torch.int32, device=device))
    return _target_maps[key]
