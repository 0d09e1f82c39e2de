"""The loss of the trained tokens, over the whole vocabulary or over the few tokens that codes are written in.

Over the vocabulary it is cut into slices of rows: the whole logits never stand in memory.

The gradient is made in the forward pass, where the logits are at hand. Slicing along rows, not along the vocabulary,
keeps each row's gradient one product with fp32 accumulation.
"""

from typing import Any

import torch
from torch.autograd import Function
from torch.nn.functional import linear

from app.ml.engine.objective import focal_losses, focal_slopes
from app.ml.engine.packed.fused import Passes

# Logits of one slice: 256 MiB in 16 bit, and as a matrix product large enough for any card.
_SLICE_NUMBERS = 2**27


class _SummedLoss(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        softcap: float | None,
        focal_gamma: float,
        passes: Passes,
    ) -> torch.Tensor:
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=hidden.device)
        size = max(1, _SLICE_NUMBERS // weight.shape[0])
        for start in range(0, hidden.shape[0], size):
            part = slice(start, start + size)
            losses, slope = passes.token_losses(hidden[part] @ weight.T, labels[part], softcap)
            total += focal_losses(losses, focal_gamma).sum() if focal_gamma else losses.sum()
            if grad is not None:
                torch.mm(slope, weight, out=grad[part])
                if focal_gamma:
                    grad[part].mul_(focal_slopes(losses, focal_gamma)[:, None])
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None, None, None, None


def summed_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    softcap: float | None,
    passes: Passes,
    *,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    """Returns the sum of -log p(label) as an fp32 scalar, for `hidden` [S, D], a frozen `weight` [V, D], `labels` [S].

    A negative label is left out. With `focal_gamma` each is times (1 - p)^gamma.
    """
    loss: torch.Tensor = _SummedLoss.apply(hidden, weight, labels, softcap, focal_gamma, passes)
    return loss


def choice_logits(hidden: torch.Tensor, weight: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Returns `[S, C]` fp32 of `hidden` [S, D] and a frozen fp32 `weight` [C, D]."""
    logits = linear(hidden.float(), weight)
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap
