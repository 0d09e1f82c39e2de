"""Cross entropy over the trained tokens of a batch."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from app.ml.engine.batching import IGNORED, Batch
from app.ml.engine.device import arithmetic
from app.ml.engine.head import head_at


def summed_loss(network: Any, batch: Batch) -> torch.Tensor:
    """Returns the sum over trained tokens of -log p(token), as an fp32 scalar.

    A sum, because micro-batches of one step are weighted by their tokens: 8 x 8 rows then equal 1 x 64.
    """
    wanted = batch.labels != IGNORED
    with head_at(network, wanted), arithmetic(network):
        output = network(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )
    return cross_entropy(output.logits[0].float(), batch.labels[wanted], reduction="sum")
