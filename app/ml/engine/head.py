"""The output head, computed only where its logits are wanted.

The head is a third of the work of a small model with a 256k vocabulary. transformers' `logits_to_keep` cuts a view that
is not contiguous, for which torch copies the whole head weight once a row (measured: 24 s of a 30 s step on 2 cores).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def head_at(network: Any, wanted: torch.Tensor) -> Iterator[None]:
    """Within the block the head sees only the last S positions that `wanted` marks; logits come out as `[1, N, V]`.

    `wanted`: [B, S] bool. Whatever the model does to its logits afterwards (soft-capping, scaling) still happens.
    """

    def select(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0]
        return (hidden[:, -wanted.shape[1] :][wanted].unsqueeze(0), *arguments[1:])

    handle = network.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
