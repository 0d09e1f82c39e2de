"""The gate of an MLP as Triton kernels: by itself, and as the end of the product before it."""

import torch
import triton
import triton.language as tl

_FEW_TOKENS = 64


@triton.jit
def _activated(gate, SILU: tl.constexpr):  # type: ignore[no-untyped-def]
    if SILU:
        return gate / (1.0 + tl.exp(-gate))
    inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    return gate / (1.0 + tl.exp(-2.0 * inner))


@triton.jit
def _gate_kernel(both, out, width, SILU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(both + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    # Rounded as torch's activation rounds.
    value = _activated(gate, SILU).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * width + columns, (value * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_product_kernel(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    tokens,
    inputs,
    width,
    SILU: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    rows = tl.arange(0, TOKENS)
    inside = rows < tokens
    columns = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    fits = columns < width
    gate = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
    up = tl.zeros((COLUMNS, TOKENS), dtype=tl.float32)
    for start in range(0, inputs, INPUTS):
        ins = start + tl.arange(0, INPUTS)
        there = ins < inputs
        given = tl.load(x + rows[None, :] * inputs + ins[:, None], mask=inside[None, :] & there[:, None], other=0.0)
        mask = fits[:, None] & there[None, :]
        at = weight + columns[:, None] * inputs + ins[None, :]
        gate = tl.dot(tl.load(at, mask=mask, other=0.0), given, gate, input_precision="ieee")
        up = tl.dot(tl.load(at + width * inputs, mask=mask, other=0.0), given, up, input_precision="ieee")
    # Rounded as the product and torch's activation round.
    kind = out.dtype.element_ty
    value = _activated(gate.to(kind).to(tl.float32), SILU).to(kind).to(tl.float32) * up.to(kind).to(tl.float32)
    tl.store(out + rows[None, :] * width + columns[:, None], value.to(kind), mask=inside[None, :] & fits[:, None])


def gate(both: torch.Tensor, activation: str) -> torch.Tensor:
    """Returns `act(gate) * up` `[N, I]` of `[N, 2 I]`."""
    width = both.shape[1] // 2
    out = torch.empty(both.shape[0], width, dtype=both.dtype, device=both.device)
    block = min(1024, triton.next_power_of_2(width))
    _gate_kernel[(both.shape[0], triton.cdiv(width, block))](both, out, width, activation == "silu", block)
    return out


def may_fuse(tokens: int, shared_memory_bytes: int) -> bool:
    """Says whether `gated_product` is the faster way: few tokens, and room for three stages of both weights."""
    return tokens <= _FEW_TOKENS and shared_memory_bytes >= 3 * 2 * 128 * (2 * 64 + _FEW_TOKENS)


def gated_product(x: torch.Tensor, weight: torch.Tensor, activation: str) -> torch.Tensor:
    """Returns `act(gate) * up` `[N, I]` of `xW'` for at most 64 tokens; the weight `[2 I, D]` is read once."""
    width, inputs = weight.shape[0] // 2, x.shape[1]
    out = torch.empty(x.shape[0], width, dtype=x.dtype, device=x.device)
    tokens = max(16, triton.next_power_of_2(x.shape[0]))
    _gated_product_kernel[(triton.cdiv(width, 64),)](
        x, weight, out, x.shape[0], inputs, width, activation == "silu", tokens, 64, 128, num_warps=4, num_stages=3
    )
    return out
