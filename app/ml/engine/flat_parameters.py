"""An adapter's parameters laid end to end, one flat parameter for each learning rate.

The optimiser, the gradient's norm and the clipping then cost a launch or two, not a few for each of some hundred
tensors. peft's own parameters become views: they train, load and save as before. Parameters of one kind of layer stand
one after the other, so that what is derived from them can be derived for all layers at once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

_LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True)
class FlatGroup:
    """The parameters that share a learning rate."""

    name: str
    learning_rate: float
    flat: torch.nn.Parameter
    """[n] fp32, with its gradient beside it from the start"""
    members: tuple[str, ...]
    """Names of peft's parameters in it, in their order"""


def flatten(name: str, learning_rate: float, parameters: Sequence[tuple[str, torch.nn.Parameter]]) -> FlatGroup:
    """Moves named parameters into one flat parameter and their gradients into its gradient."""
    in_order = sorted(parameters, key=lambda pair: _place(pair[0]))
    ordered = [parameter for _, parameter in in_order]
    flat = torch.nn.Parameter(torch.cat([parameter.detach().float().reshape(-1) for parameter in ordered]))
    flat.grad = torch.zeros_like(flat)
    start = 0
    for parameter in ordered:
        part = slice(start, start + parameter.numel())
        start = part.stop
        parameter.data = flat.data[part].view(parameter.shape)
        parameter.grad = flat.grad[part].view(parameter.shape)
    return FlatGroup(name, learning_rate, flat, tuple(member for member, _ in in_order))


def optimiser_groups(groups: Sequence[FlatGroup], *, weight_decay: float) -> list[dict[str, Any]]:
    """Returns AdamW's parameter groups; each has its `names`."""
    return [
        {"params": [group.flat], "names": [group.name], "lr": group.learning_rate, "weight_decay": weight_decay}
        for group in groups
    ]


def _place(name: str) -> tuple[str, int]:
    found = _LAYER.search(name)
    return (name, 0) if found is None else (_LAYER.sub(".layers.*.", name), int(found[1]))
