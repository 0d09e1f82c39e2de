"""Weights laid out once for products with few rows on a CPU, where a plain product lays them out anew each time."""

from collections.abc import Sequence

import torch

_USUAL_ROWS = 16
_MOST_BYTES = 2**30
"""Of the copies in all: a model that is larger answers at the pace of plain products."""


def lay_out(weights: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """Returns oneDNN's own layout of each fp32 weight `[O, I]`, or None for all where there is none or no memory for it.

    The layout that the library chooses for 16 rows serves any number of rows.
    """
    is_served = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights
    )
    if not is_served or sum(weight.nbytes for weight in weights) > _MOST_BYTES:
        return [None] * len(weights)
    with torch.inference_mode():
        return [torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _USUAL_ROWS) for weight in weights]


def product(x: torch.Tensor, laid_out: torch.Tensor) -> torch.Tensor:
    """Returns `xW'` `[N, O]` of `x` `[N, I]` and a weight from `lay_out`."""
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, None, "none", [], "")
    return y
