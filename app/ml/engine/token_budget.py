"""How many tokens a micro-batch may have: planned from the memory that is free when a run starts."""

from collections.abc import Sequence
from dataclasses import replace

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
    fitting = _tokens_that_fit(base, spec, is_packed=is_packed)
    # An architecture that names its sizes otherwise: start high on a GPU, which halves on its own.
    return most if fitting is None else min(most, max(longest, fitting))


def needs_checkpointing(base: LoadedModel, spec: FinetuneSpec, rows: Sequence[TokenRow]) -> bool:
    """Says whether the longest row finds no room in the memory that is free, but would if layers were computed twice.

    Of packed training: the padded one knows no checkpointing.
    """
    if spec.gradient_checkpointing:
        return False
    longest = max(map(token_count, rows))
    fitting = _tokens_that_fit(base, spec, is_packed=True)
    if fitting is None or fitting >= longest:
        return False
    checkpointed = _tokens_that_fit(base, replace(spec, gradient_checkpointing=True), is_packed=True)
    return checkpointed is not None and checkpointed > fitting


def _tokens_that_fit(base: LoadedModel, spec: FinetuneSpec, *, is_packed: bool) -> int | None:
    try:
        shapes = shapes_of(base.network.config.to_dict(), weight_bytes=0)
    except (KeyError, TypeError, AttributeError, ArithmeticError):
        return None
    free = int(free_memory_bytes(base.device) * _USED_SHARE)
    return tokens_that_fit(shapes, spec, free, is_fp32=base.dtype == torch.float32, is_packed=is_packed)
