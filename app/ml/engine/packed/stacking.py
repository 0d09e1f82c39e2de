"""Linear layers that read the same input, with their frozen weights under each other in one tensor."""

from collections.abc import Sequence
from typing import Any

import torch


def stack_weights(bases: Sequence[Any]) -> torch.Tensor:
    """Returns the weights of linear modules as one `[sum of O, I]`, of which the modules' own become views.

    Modules that were stacked before are left as they are.
    """
    first: torch.Tensor = bases[0].weight.data
    if len(bases) == 1:
        return first
    rows = sum(base.weight.shape[0] for base in bases)
    if _stand_together(bases):
        return first.as_strided((rows, first.shape[1]), first.stride())
    stacked = torch.cat([base.weight.data for base in bases])
    start = 0
    for base in bases:
        stop = start + base.weight.shape[0]
        base.weight.data = stacked[start:stop]
        start = stop
    return stacked


def _stand_together(bases: Sequence[Any]) -> bool:
    first: torch.Tensor = bases[0].weight.data
    storage, place = first.untyped_storage().data_ptr(), first.storage_offset()
    for base in bases:
        weight: torch.Tensor = base.weight.data
        if weight.untyped_storage().data_ptr() != storage or weight.storage_offset() != place or not weight.is_contiguous():
            return False
        place += weight.numel()
    return True
