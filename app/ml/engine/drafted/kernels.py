"""The steps of a pass as Triton kernels: no padding, every token finds its row and its adapter by itself.

Plain Triton without vendor intrinsics; imported only where Triton runs. Work is cut into blocks of tokens that share a row or
an adapter, listed in `PassTensors`; a block without tokens does nothing, so that one grid serves every pass of a shape.
"""

import torch
import triton
import triton.language as tl

from app.ml.engine.device import Beside, shared_memory_bytes
from app.ml.engine.drafted import adapter_kernels, gate_kernels
from app.ml.engine.drafted.network import CachedNetwork, SlotLayer
from app.ml.engine.drafted.passes import PassTensors
from app.ml.engine.drafted.rows import KeyValueRows

# Fastest on an H100 for heads of 256.
_KEYS, _ATTEND_WARPS = 64, 8


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


class KernelSteps:
    """The `Steps` of one pass; all of it may be captured."""

    def __init__(self, network: CachedNetwork, rows: KeyValueRows, tokens: PassTensors) -> None:
        """Writes where the pass's tokens stand."""
        self._network, self._anatomy, self._rows, self._tokens = network, network.anatomy, rows, tokens
        self._beside = Beside(network.device)
        self._shared_memory_bytes = shared_memory_bytes(network.device)
        rows.positions.index_copy_(0, tokens.places, tokens.positions)

    def shrink(self, x: torch.Tensor, slots: SlotLayer, layer: int) -> torch.Tensor:
        """Starts beside the product of the frozen weight."""
        if not self._tokens.shape.adapter_blocks:
            return x
        with self._beside:
            return adapter_kernels.shrink(x, slots, layer, self._tokens)

    def expand(self, y: torch.Tensor, low: torch.Tensor, slots: SlotLayer, layer: int) -> None:
        """Applies each token's adapter in place."""
        if self._tokens.shape.adapter_blocks:
            self._beside.join()
            adapter_kernels.expand(y, low, slots, layer, self._tokens)

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
            _KEYS,
            triton.next_power_of_2(anatomy.head_dim),
            tokens.words.shape[1],
            num_warps=_ATTEND_WARPS,
            num_stages=1,
        )
        return out

    def gate(self, both: torch.Tensor, activation: str) -> torch.Tensor:
        """Gates."""
        return gate_kernels.gate(both, activation)

    def gated_product(self, x: torch.Tensor, weight: torch.Tensor, activation: str) -> torch.Tensor:
        """Multiplies and gates; in one go where few tokens leave the time to reading the weight."""
        if gate_kernels.may_fuse(x.shape[0], self._shared_memory_bytes):
            return gate_kernels.gated_product(x, weight, activation)
        return gate_kernels.gate(torch.nn.functional.linear(x, weight), activation)
