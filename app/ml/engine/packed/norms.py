"""RMS norms in fp32 over a residual stream, and the norm of attention's heads.

Forward and backward are written out, because autograd would keep every fp32 intermediate of a norm for its backward.
"""

from typing import Any

import torch
from torch.autograd import Function

from app.ml.engine.packed.fused import Passes


def gain_of(norm: Any, offset: float) -> torch.Tensor:
    """Returns a norm module's fp32 factor `[D]`."""
    gain: torch.Tensor = norm.weight.detach().float() + offset
    return gain


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: torch.Tensor, eps: float, dtype: torch.dtype, passes: Passes) -> torch.Tensor:
        _, y, scale = passes.add_norm(x, None, gain, eps, dtype)
        ctx.save_for_backward(x, scale, gain)
        ctx.passes = passes
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        x, scale, gain = ctx.saved_tensors
        return ctx.passes.norm_backward(grads[0], None, x, scale, gain), None, None, None, None


class _AddNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, delta: torch.Tensor, gain: torch.Tensor, eps: float, dtype: torch.dtype, passes: Passes
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, y, scale = passes.add_norm(x, delta, gain, eps, dtype)
        ctx.save_for_backward(total, scale, gain)
        ctx.passes, ctx.delta_dtype = passes, delta.dtype
        return total, y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        total, scale, gain = ctx.saved_tensors
        grad = ctx.passes.norm_backward(grads[1], grads[0], total, scale, gain)
        return grad if ctx.needs_input_grad[0] else None, grad.to(ctx.delta_dtype), None, None, None, None


class _HeadNorm(Function):
    @staticmethod
    def forward(ctx: Any, heads: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
        normed = heads[:, : gain.shape[0]]
        scale = torch.rsqrt(normed.float().square().mean(-1, keepdim=True) + eps)
        out = heads.clone()
        torch.mul(normed * scale, gain, out=out[:, : gain.shape[0]])
        ctx.save_for_backward(heads, scale, gain)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        heads, scale, gain = ctx.saved_tensors
        count = gain.shape[0]
        grad = grads[0].clone()
        weighted = grads[0][:, :count] * gain
        unit = heads[:, :count] * scale
        dot = (weighted * unit).mean(-1, keepdim=True)
        torch.mul(weighted.addcmul_(unit, dot, value=-1), scale, out=grad[:, :count])
        return grad, None, None


def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float, dtype: torch.dtype, passes: Passes) -> torch.Tensor:
    """Returns `x` [N, D] over its root mean square, times `gain` [D] fp32, in `dtype`."""
    y: torch.Tensor = _RmsNorm.apply(x, gain, eps, dtype, passes)
    return y


def add_norm(
    x: torch.Tensor, delta: torch.Tensor, gain: torch.Tensor, eps: float, dtype: torch.dtype, passes: Passes
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns `x + delta` in x's dtype, and its norm in `dtype`."""
    total, y = _AddNorm.apply(x, delta, gain, eps, dtype, passes)
    return total, y


def head_norm(heads: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """Norms the first K heads of `heads` [N, H, D] by `gain` [K, D] fp32; the others pass."""
    y: torch.Tensor = _HeadNorm.apply(heads, gain, eps)
    return y
