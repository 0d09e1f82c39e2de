"""The gated activation of an MLP, which keeps only its inputs for the backward pass."""

from typing import Any

import torch
from torch.autograd import Function

from app.ml.engine.packed.fused import Passes


class _Gated(Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: str, passes: Passes) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation, ctx.passes = activation, passes
        return passes.gated(gate, up, activation)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        gate, up = ctx.saved_tensors
        return *ctx.passes.gated_backward(grads[0], gate, up, ctx.activation), None, None


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str, passes: Passes) -> torch.Tensor:
    """Returns `act(gate) * up` [N, I]; `activation` is `gelu_pytorch_tanh` or `silu`."""
    y: torch.Tensor = _Gated.apply(gate, up, activation, passes)
    return y
