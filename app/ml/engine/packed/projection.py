"""Linear layers that read the same input, as one product, with their LoRA or DoRA factors.

A `Projection` is what q, k and v (or gate and up) share. Its frozen weights stand under each other in one tensor, of
which transformers' own modules become views; each adapted layer's factors A, B and magnitude are peft's own parameters.

With x̃ the dropped-out input, s the scale, g = magnitude / norm(W + sBA), peft's law for one layer is

    LoRA:             y = xW' + s x̃A'B'
    DoRA, dropout 0:  y = g (xW' + s xA'B')
    DoRA, dropout:    y = xW' + (g - 1) x̃W' + g s x̃A'B'

with the norm held constant in the backward pass (arXiv 2402.09353, section 4.3) and an own draw of x̃ for each layer.
The norm changes only when the optimiser steps, so `refresh` computes it once a step, in factored form and fp32:
norm(W + sBA)² = norm(W)² + 2s <W, BA> + s² norm(BA)², row by row (as arXiv 2603.22276 does).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import Function

from app.ml.engine.packed.factors import FactorStack, LowRank, scale_of
from app.ml.engine.packed.fused import Passes
from app.ml.engine.packed.stacking import stack_weights


class Projection:
    """One fused linear layer; `refresh` after every change of the adapter's parameters."""

    def __init__(self, modules: Sequence[Any], *, dropout: float, passes: Passes) -> None:
        """Takes the modules over, peft's wrappers or plain linear layers; their weights become views of one tensor."""
        self.dropout, self.passes = dropout, passes
        bases = [getattr(module, "base_layer", module) for module in modules]
        biases = [base.bias for base in bases]
        self.weight = stack_weights(bases)
        self.bias = torch.cat([bias.detach() for bias in biases]) if biases[0] is not None else None
        adapted = [index for index, module in enumerate(modules) if hasattr(module, "lora_A")]
        self.adapters: list[LowRank] = []
        if not adapted:
            return
        rank, inputs = _factor(modules[adapted[0]], "lora_A").shape
        self.factors_a = self.weight.new_empty(len(adapted), rank, inputs)
        ends = torch.tensor([base.weight.shape[0] for base in bases]).cumsum(0).tolist()
        for place, index in enumerate(adapted):
            columns = slice(ends[index] - bases[index].weight.shape[0], ends[index])
            self.adapters.append(_low_rank(modules[index], columns, self.weight[columns], self.factors_a[place]))
        self.has_dora = any(adapter.magnitude is not None for adapter in self.adapters)
        self.is_whole = len(adapted) == len(modules)
        self.norm = self.gain_less_one = torch.empty(0)
        """[O] fp32 each with DoRA: views that `stack_projections` sets"""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `[N, O]` of `x` [N, I]."""
        if not self.adapters:
            # Autograd keeps nothing for a frozen product but its weight.
            return torch.nn.functional.linear(x, self.weight, self.bias)
        parameters = [parameter for adapter in self.adapters for parameter in adapter.parameters]
        y: torch.Tensor = _Adapted.apply(x, self, self.dropout, *parameters)
        return y


class _Adapted(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, projection: Projection, dropout: float, *_: torch.Tensor) -> torch.Tensor:
        adapters, weight = projection.adapters, projection.weight
        y = torch.nn.functional.linear(x, weight)
        masks = None
        if dropout:
            masks = torch.empty(len(adapters), *x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - dropout)
        dropped = _dropped(x, masks, dropout, projection.passes)
        lows = _low_products(dropped, projection.factors_a)
        direction = None
        if projection.has_dora and masks is not None:
            make = torch.empty_like if projection.is_whole else torch.zeros_like
            direction, delta = make(y), make(y)
            for index, adapter in enumerate(adapters):
                torch.mm(dropped[index], adapter.weight.T, out=direction[:, adapter.columns])
                torch.mm(lows[index], adapter.scaled_b.T, out=delta[:, adapter.columns])
            projection.passes.combine(y, direction, delta, projection.gain_less_one)
        else:
            for index, adapter in enumerate(adapters):
                part = y[:, adapter.columns].addmm_(lows[index], adapter.scaled_b.T)
                if adapter.gain is not None:
                    part.mul_(adapter.gain)
        ctx.projection, ctx.dropout, ctx.has_masks = projection, dropout, masks is not None
        kept_y = y if projection.has_dora and masks is None else None
        ctx.save_for_backward(x, masks, lows, kept_y, direction)
        return y if projection.bias is None else y + projection.bias

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        projection, (grad,) = ctx.projection, grads
        adapters, passes = projection.adapters, projection.passes
        x, masks, lows, y, direction = ctx.saved_tensors
        low_grads = torch.empty_like(lows)
        into_norms = None
        if direction is not None:
            into_norms = passes.column_dot(grad, direction).div_(projection.norm)
        others: list[torch.Tensor] = []
        for index, adapter in enumerate(adapters):
            part = grad[:, adapter.columns]
            torch.mm(part, adapter.gained_b, out=low_grads[index])
            into_b = _product(part.T, lows[index])
            if adapter.gain is None:
                others.append(into_b.mul_(adapter.scale))
                continue
            others.append(into_b.mul_((adapter.gain * adapter.scale)[:, None]))
            if into_norms is None:
                others.append(passes.column_dot(part, y[:, adapter.columns]).div_(adapter.magnitude))
            else:
                others.append(into_norms[adapter.columns])
        into_a = _low_gradients(low_grads, _dropped(x, masks, ctx.dropout, passes))
        into_x = None
        if ctx.needs_input_grad[0] and masks is None:
            into_x = _gained(grad, adapters) @ projection.weight
            for low_grad, factor_a in zip(low_grads, projection.factors_a, strict=True):
                into_x.addmm_(low_grad, factor_a)
        elif ctx.needs_input_grad[0]:
            into_x = grad @ projection.weight
            inner = torch.bmm(low_grads, projection.factors_a)
            if projection.has_dora:
                gained = passes.scaled_columns(grad, projection.gain_less_one)
                for index, adapter in enumerate(adapters):
                    inner[index].addmm_(gained[:, adapter.columns], adapter.weight)
            passes.add_masked(into_x, inner, masks, 1 / (1 - ctx.dropout))
        return into_x, None, None, *_in_order(adapters, into_a, others)


def stack_projections(alike: Sequence[Projection]) -> list[FactorStack]:
    """Returns the stacks that derive the factors of one kind of projection over all layers, one stack a target."""
    first = alike[0]
    if not first.adapters:
        return []
    outputs = first.weight.shape[0]
    accounts = torch.zeros(3, len(alike) if first.has_dora else 0, outputs, device=first.weight.device)
    # A column without an adapter is left as it is: norm 1, g - 1 = 0.
    accounts[0].fill_(1)
    if first.has_dora:
        for index, projection in enumerate(alike):
            projection.norm, projection.gain_less_one = accounts[0, index], accounts[2, index]
    places = range(len(first.adapters))
    return [FactorStack([projection.adapters[place] for projection in alike], accounts) for place in places]


def _in_order(adapters: Sequence[LowRank], into_a: torch.Tensor, others: list[torch.Tensor]) -> list[torch.Tensor]:
    ordered, rest = [], iter(others)
    for index, adapter in enumerate(adapters):
        ordered.append(into_a[index])
        ordered += [next(rest) for _ in adapter.parameters[1:]]
    return ordered


def _dropped(x: torch.Tensor, masks: torch.Tensor | None, dropout: float, passes: Passes) -> torch.Tensor:
    """Returns `[m, N, I]`, each layer's own draw; without dropout a view of x."""
    if masks is None:
        return x[None]
    return passes.masked_copies(x, masks, 1 / (1 - dropout))


def _low_products(dropped: torch.Tensor, factors_a: torch.Tensor) -> torch.Tensor:
    """Returns x̃A' as `[m, N, r]`."""
    if dropped.shape[0] == factors_a.shape[0]:
        return torch.bmm(dropped, factors_a.transpose(1, 2))
    count, rank, inputs = factors_a.shape
    return (dropped[0] @ factors_a.view(count * rank, inputs).T).view(-1, count, rank).transpose(0, 1).contiguous()


def _low_gradients(low_grads: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of A as `[m, r, I]` fp32."""
    if dropped.shape[0] == low_grads.shape[0]:
        return _product(low_grads.transpose(1, 2), dropped)
    count, _, rank = low_grads.shape
    flat = low_grads.transpose(1, 2).reshape(count * rank, -1)
    return _product(flat, dropped[0]).view(count, rank, -1)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Returns a matrix product in fp32, without rounding its sums to 16 bit first where the device can."""
    if left.dtype != torch.float32 and left.is_cuda:
        multiply = torch.bmm if left.dim() == 3 else torch.mm
        return multiply(left, right, out_dtype=torch.float32)
    return (left @ right).float()


def _gained(grad: torch.Tensor, adapters: Sequence[LowRank]) -> torch.Tensor:
    """Returns `grad` times g where a layer has one."""
    if all(adapter.gain is None for adapter in adapters):
        return grad
    out = torch.empty_like(grad)
    done = 0
    for adapter in adapters:
        assert adapter.gain is not None
        columns = adapter.columns
        if columns.start > done:
            out[:, done : columns.start] = grad[:, done : columns.start]
        torch.mul(grad[:, columns], adapter.gain, out=out[:, columns])
        done = columns.stop
    out[:, done:] = grad[:, done:]
    return out


def _low_rank(module: Any, columns: slice, weight: torch.Tensor, cast_a: torch.Tensor) -> LowRank:
    (name,) = module.lora_A
    magnitude = module.lora_magnitude_vector[name].weight if name in module.lora_magnitude_vector else None
    return LowRank(
        columns=columns,
        weight=weight,
        factor_a=_factor(module, "lora_A"),
        factor_b=_factor(module, "lora_B"),
        magnitude=magnitude,
        scale=scale_of(module, name),
        cast_a=cast_a,
    )


def _factor(module: Any, kind: str) -> torch.nn.Parameter:
    (layer,) = getattr(module, kind).values()
    weight: torch.nn.Parameter = layer.weight
    return weight
