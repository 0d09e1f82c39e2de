"""The factors of one adapted layer, and what each optimiser step derives from them.

The layers of one kind (all q, say) are derived together, so that a step costs a few launches and not a few a layer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass
class LowRank:
    """The adapter of one linear layer: peft's parameters, and what one optimiser step derives from them."""

    columns: slice
    """Where the layer's outputs stand among its projection's."""
    weight: torch.Tensor
    """[O, I]: the frozen weight"""
    factor_a: torch.nn.Parameter
    """[r, I] fp32"""
    factor_b: torch.nn.Parameter
    """[O, r] fp32"""
    magnitude: torch.nn.Parameter | None
    """[O] fp32 with DoRA"""
    scale: float
    cast_a: torch.Tensor
    """[r, I]: A in the frozen weight's dtype, a view of its projection's"""
    scaled_b: torch.Tensor = field(init=False)
    """[O, r]: s B"""
    gained_b: torch.Tensor = field(init=False)
    """[O, r]: g s B, or s B without DoRA"""
    gain: torch.Tensor | None = None
    """[O] fp32: g"""

    @property
    def parameters(self) -> tuple[torch.nn.Parameter, ...]:
        """Returns what trains."""
        both = (self.factor_a, self.factor_b)
        return both if self.magnitude is None else (*both, self.magnitude)


class FactorStack:
    """The adapters of one kind of layer over all L layers; `refresh` after every change of the parameters."""

    def __init__(self, adapters: Sequence[LowRank], accounts: torch.Tensor) -> None:
        """Allocates what `refresh` fills, once: captured graphs keep reading the same places.

        `accounts`: [3, L, O of the whole projection] fp32, for norm, g and g - 1.
        """
        self._adapters = adapters
        first = adapters[0]
        rows, rank = first.factor_b.shape
        self._scale = first.scale
        self._has_dora = first.magnitude is not None
        self._scaled_b = first.weight.new_empty(len(adapters), rows, rank)
        self._gained_b = torch.empty_like(self._scaled_b) if self._has_dora else self._scaled_b
        if self._has_dora:
            self._norm, self._gain, self._gain_less_one = accounts[:, :, first.columns]
            self._weight_norm_squared = torch.stack([_row_norms_squared(adapter.weight) for adapter in adapters])
        for index, adapter in enumerate(adapters):
            adapter.scaled_b, adapter.gained_b = self._scaled_b[index], self._gained_b[index]
            if self._has_dora:
                adapter.gain = self._gain[index]

    @torch.no_grad()
    def refresh(self) -> None:
        """Derives this optimiser step's factors."""
        factor_a = stacked([adapter.factor_a for adapter in self._adapters])
        factor_b = stacked([adapter.factor_b for adapter in self._adapters])
        torch._foreach_copy_([adapter.cast_a for adapter in self._adapters], list(factor_a.unbind()))
        scaled = factor_b * self._scale
        self._scaled_b.copy_(scaled)
        if not self._has_dora:
            return
        mixed = _weights_times_a([adapter.weight for adapter in self._adapters], factor_a)
        gram = factor_a @ factor_a.transpose(1, 2)
        # <W, sBA> + half of norm(sBA)^2, row by row
        half = mixed.baddbmm_(scaled, gram, alpha=0.5).mul_(scaled).sum(dim=2)
        torch.add(self._weight_norm_squared, half, alpha=2, out=self._norm)
        self._norm.clamp_(min=0).sqrt_()
        magnitude = stacked([adapter.magnitude for adapter in self._adapters if adapter.magnitude is not None])
        torch.div(magnitude, self._norm, out=self._gain)
        torch.sub(self._gain, 1, out=self._gain_less_one)
        self._gained_b.copy_(scaled.mul_(self._gain[:, :, None]))


def stacked(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Returns `[L, ...]` of parameters of one shape: without a copy where they stand one after the other in memory."""
    first = parameters[0].data
    size = first.numel()
    storage, start = first.untyped_storage().data_ptr(), first.storage_offset()
    for index, parameter in enumerate(parameters):
        data = parameter.data
        if data.untyped_storage().data_ptr() != storage or data.storage_offset() != start + index * size:
            return torch.stack([parameter.data for parameter in parameters])
    return first.as_strided((len(parameters), *first.shape), (size, *first.stride()))


def scale_of(module: object, name: str) -> float:
    """Returns peft's scale of an adapter: alpha over the rank, or over its root with rsLoRA."""
    scale = float(module.scaling[name])  # type: ignore[attr-defined]
    assert math.isfinite(scale)
    return scale


def _weights_times_a(weights: Sequence[torch.Tensor], factor_a: torch.Tensor) -> torch.Tensor:
    """Returns every layer's W A' as `[L, O, r]`, in fp32's precision.

    A 16-bit weight on a GPU is multiplied by A's rounded value and by what the rounding lost: two fast products, exact
    but for 2**-16 of A, where a cast of the weights would move them through memory again.
    """
    rows, rank = weights[0].shape[0], factor_a.shape[1]
    if not factor_a.is_cuda or weights[0].dtype == torch.float32:
        out = factor_a.new_empty(len(weights), rows, rank)
        for index, weight in enumerate(weights):
            torch.mm(weight.float(), factor_a[index].T, out=out[index])
        return out
    rounded = factor_a.to(weights[0].dtype)
    both = torch.cat([rounded, factor_a.sub(rounded).to(rounded.dtype)], dim=1).transpose(1, 2)
    parts = [torch.mm(weight, right, out_dtype=torch.float32) for weight, right in zip(weights, both.unbind(), strict=True)]
    return torch.add(*torch.stack(parts).chunk(2, dim=2))


def _row_norms_squared(weight: torch.Tensor) -> torch.Tensor:
    norms = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32)
    return norms.square_()
