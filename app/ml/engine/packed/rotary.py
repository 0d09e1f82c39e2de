"""Rotary positions, and the step from packed tokens to attention's padded rows and back."""

from typing import Any

import torch
from torch.autograd import Function

from app.ml.engine.packed.fused import Passes
from app.ml.engine.packed.packs import PackedRows


class _RotatePad(Function):
    @staticmethod
    def forward(
        ctx: Any,
        heads: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        places: torch.Tensor,
        size: int,
        queries: int,
        keys: int,
        passes: Passes,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, sin, places)
        ctx.passes = passes
        padded = passes.rotate_pad(heads, cos, sin, queries + keys, places, size)
        return padded[:, :queries], padded[:, queries : queries + keys], padded[:, queries + keys :]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        cos, sin, places = ctx.saved_tensors
        return ctx.passes.unpad_rotate(grads, cos, sin, places), None, None, None, None, None, None, None


class _Take(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, places: torch.Tensor, is_unique: bool) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.size, ctx.is_unique = x.shape[0], is_unique
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (places,) = ctx.saved_tensors
        grad = grads[0]
        whole = grad.new_zeros(ctx.size, *grad.shape[1:])
        if ctx.is_unique:
            return whole.index_copy_(0, places, grad), None, None
        return whole.index_add_(0, places, grad), None, None


def rotate_pad(
    heads: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor], rows: PackedRows, queries: int, keys: int, passes: Passes
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotates queries and keys of `heads` [N, queries + 2 keys, D] and pads: `[B, T, h, D]` each, zeros after a row's end."""
    size = rows.shape.rows * rows.shape.width
    parts = _RotatePad.apply(heads, *angles, rows.places, size, queries, keys, passes)
    query, key, value = (part.view(rows.shape.rows, rows.shape.width, *part.shape[1:]) for part in parts)
    return query, key, value


def take(x: torch.Tensor, places: torch.Tensor, *, is_unique: bool) -> torch.Tensor:
    """Returns `x[places]`. A place that stands twice (idle ones do) must get no gradient but once: sums stay exact."""
    y: torch.Tensor = _Take.apply(x, places, is_unique)
    return y
