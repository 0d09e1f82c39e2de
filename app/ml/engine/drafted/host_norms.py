"""Norms and rotary embeddings of a pass on a CPU in fp32, each in one loop: the many small steps of plain torch cost more."""

import math
from typing import Any

import numpy as np
import torch

from app.ml.engine.compiled import compiled_sums


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Says whether these loops serve a network's arithmetic."""
    return device.type == "cpu" and dtype == torch.float32


def add_norm(x: torch.Tensor, delta: torch.Tensor | None, gain: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns `x + delta` and its root-mean-square norm times `gain`; `x` and `delta` `[N, D]`, `gain` `[D]`."""
    normed = torch.empty_like(x)
    if delta is None:
        _norm(x.numpy(), gain.numpy(), eps, normed.numpy())
        return x, normed
    total = torch.empty_like(x)
    _add_norm(x.numpy(), delta.numpy(), gain.numpy(), eps, total.numpy(), normed.numpy())
    return total, normed


def norm_rotate(heads: torch.Tensor, gain: torch.Tensor, eps: float, angles: torch.Tensor) -> torch.Tensor:
    """Returns the first C of the heads `[N, H, D]`, normed with `gain` `[C, D]` and rotated by `angles` `[N, D]`.

    A row of angles is the cosines of half a head, then its sines.
    """
    turned = heads.new_empty(heads.shape[0], *gain.shape)
    _norm_rotate(heads.numpy(), gain.numpy(), eps, angles.numpy(), turned.numpy())
    return turned


def compile_ahead() -> None:
    """Compiles the loops, or reads them from the cache."""
    row = torch.ones(1, 2)
    add_norm(row, None, row[0], 0.0)
    add_norm(row, row, row[0], 0.0)
    norm_rotate(row[:, None], row, 0.0, row)


@compiled_sums
def _norm(x: Any, gain: Any, eps: float, normed: Any) -> None:
    for row in range(x.shape[0]):
        _norm_row(x[row], gain, eps, normed[row])


@compiled_sums
def _add_norm(x: Any, delta: Any, gain: Any, eps: float, total: Any, normed: Any) -> None:
    for row in range(x.shape[0]):
        for place in range(x.shape[1]):
            total[row, place] = x[row, place] + delta[row, place]
        _norm_row(total[row], gain, eps, normed[row])


@compiled_sums
def _norm_rotate(heads: Any, gain: Any, eps: float, angles: Any, turned: Any) -> None:
    half = heads.shape[2] // 2
    for row in range(turned.shape[0]):
        for head in range(turned.shape[1]):
            out = turned[row, head]
            _norm_row(heads[row, head], gain[head], eps, out)
            for place in range(half):
                first, second = out[place], out[half + place]
                cos, sin = angles[row, place], angles[row, half + place]
                out[place] = first * cos - second * sin
                out[half + place] = second * cos + first * sin


@compiled_sums
def _norm_row(x: Any, gain: Any, eps: float, normed: Any) -> None:
    squares = x[0] * x[0]
    for place in range(1, x.shape[0]):
        squares += x[place] * x[place]
    scale = np.float32(1 / math.sqrt(squares / x.shape[0] + eps))
    for place in range(x.shape[0]):
        normed[place] = x[place] * scale * gain[place]
