"""The output head, computed only where its logits are wanted.

The head is a third of the work of a small model with a 256k vocabulary. transformers' `logits_to_keep` cuts a view that
is not contiguous, for which torch copies the whole head weight once a row (measured: 24 s of a 30 s step on 2 cores).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import linear


@contextmanager
def head_at(network: Any, wanted: torch.Tensor, tokens: torch.Tensor | None = None) -> Iterator[None]:
    """Within the block the head sees only the last S positions that `wanted` marks; logits come out as `[1, N, V]`.

    `wanted`: [B, S] bool. With `tokens` [C] int64 the logits are those of these tokens alone, `[1, N, C]` fp32. Whatever
    the model does to its logits afterwards (soft-capping, scaling) still happens.
    """
    head = network.get_output_embeddings()

    def select(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0]
        return (hidden[:, -wanted.shape[1] :][wanted].unsqueeze(0), *arguments[1:])

    def of_tokens(hidden: torch.Tensor) -> torch.Tensor:
        bias = None if head.bias is None else head.bias[tokens].float()
        with torch.autocast(hidden.device.type, enabled=False):
            return linear(hidden.float(), head.weight[tokens].float(), bias)

    handle = head.register_forward_pre_hook(select)
    if tokens is not None:
        head.forward = of_tokens
    try:
        yield
    finally:
        handle.remove()
        if tokens is not None:
            # The class's own is there again.
            del head.forward
