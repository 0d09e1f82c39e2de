"""Elementwise passes and their derivatives: as Triton kernels where they run, else in plain torch.

Both compute in fp32 and round at the end; `plain` documents each function.
"""

from typing import Protocol

import torch

from app.ml.engine.device import triton_runs
from app.ml.engine.packed import plain


class Passes(Protocol):
    """The functions that `plain` and `kernels` both offer."""

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, gain: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...

    def norm_backward(
        self,
        grad: torch.Tensor,
        residual_grad: torch.Tensor | None,
        x: torch.Tensor,
        scale: torch.Tensor,
        gain: torch.Tensor,
    ) -> torch.Tensor: ...

    def gated(self, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor: ...

    def gated_backward(
        self, grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: str
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def rotate_pad(
        self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, count: int, places: torch.Tensor, size: int
    ) -> torch.Tensor: ...

    def unpad_rotate(
        self,
        grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        cos: torch.Tensor,
        sin: torch.Tensor,
        places: torch.Tensor,
    ) -> torch.Tensor: ...

    def add_masked(self, base: torch.Tensor, inner: torch.Tensor, masks: torch.Tensor, factor: float) -> None: ...

    def masked_copies(self, x: torch.Tensor, masks: torch.Tensor, factor: float) -> torch.Tensor: ...

    def scaled_columns(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor: ...

    def combine(self, base: torch.Tensor, direction: torch.Tensor, delta: torch.Tensor, gain_less_one: torch.Tensor) -> None: ...

    def token_losses(
        self, logits: torch.Tensor, labels: torch.Tensor, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def column_dot(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor: ...


def passes_for(device: torch.device) -> Passes:
    """Returns Triton's kernels on a device that runs them, else plain torch."""
    if not triton_runs(device):
        return plain
    from app.ml.engine.packed import kernels

    return kernels
