"""How many tokens a micro-batch may have: planned from the memory that is free when a run starts."""

from collections.abc import Sequence

import torch

from app.ml.engine.batching import TokenRow
from app.ml.engine.device import free_memory_bytes
from app.ml.engine.loading import LoadedModel
from app.ml.engine.packed.packs import token_count
from app.ml.estimates import shapes_of, tokens_that_fit
from app.ml.spec import FinetuneSpec

# The rest is for fragments and for what libraries take at their first call.
_USED_SHARE = 0.85
# Beyond these a larger pack is no faster: a GPU is busy, and a CPU's caches are full.
_MOST_TOKENS = {"cuda": 32_768, "cpu": 4096}


def plan_token_budget(base: LoadedModel, spec: FinetuneSpec, rows: Sequence[TokenRow], *, is_packed: bool) -> int:
    """Returns the most tokens of one micro-batch; at least the longest row's, which is tried whatever was computed."""
    longest = max(map(token_count, rows))
    most = max(longest, _MOST_TOKENS[base.device.type])
    try:
        shapes = shapes_of(base.network.config.to_dict(), weight_bytes=0)
    except (KeyError, TypeError, AttributeError, ArithmeticError):
        # An architecture that names its sizes otherwise: start high on a GPU, which halves on its own.
        return most
    free = int(free_memory_bytes(base.device) * _USED_SHARE)
    is_fp32 = base.dtype == torch.float32
    return min(most, max(longest, tokens_that_fit(shapes, spec, free, is_fp32=is_fp32, is_packed=is_packed)))
