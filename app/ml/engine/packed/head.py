"""Cross entropy of the trained tokens, in slices of rows: the whole logits never stand in memory.

The gradient is made in the forward pass, where the logits are at hand. Slicing along rows, not along the vocabulary,
keeps each row's gradient one product with fp32 accumulation.
"""

from typing import Any

import torch
from torch.autograd import Function

from app.ml.engine.packed.fused import Passes

# Logits of one slice: 256 MiB in 16 bit, and as a matrix product large enough for any card.
_SLICE_NUMBERS = 2**27


class _SummedLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, softcap: float | None, passes: Passes
    ) -> torch.Tensor:
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=hidden.device)
        size = max(1, _SLICE_NUMBERS // weight.shape[0])
        for start in range(0, hidden.shape[0], size):
            part = slice(start, start + size)
            losses, slope = passes.token_losses(hidden[part] @ weight.T, labels[part], softcap)
            total += losses.sum()
            if grad is not None:
                torch.mm(slope, weight, out=grad[part])
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None, None


def summed_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, softcap: float | None, passes: Passes
) -> torch.Tensor:
    """Returns the sum of -log p(label) as an fp32 scalar, for `hidden` [S, D], a frozen `weight` [V, D], `labels` [S].

    A negative label is left out.
    """
    loss: torch.Tensor = _SummedLoss.apply(hidden, weight, labels, softcap, passes)
    return loss
