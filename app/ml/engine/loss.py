"""The loss of the trained tokens of a padded batch."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from app.ml.engine.batching import IGNORED, Batch
from app.ml.engine.device import arithmetic, masked_attention
from app.ml.engine.head import head_at
from app.ml.engine.objective import CROSS_ENTROPY, Objective, choice_losses, focal_losses


def summed_loss(network: Any, batch: Batch, objective: Objective = CROSS_ENTROPY) -> torch.Tensor:
    """Returns the sum over trained tokens of the objective's loss, as an fp32 scalar.

    A sum, because micro-batches of one step are weighted by their tokens: 8 x 8 rows then equal 1 x 64. The batch must
    have been collated with the objective's choices.
    """
    logits, labels = answer_logits(network, batch, objective), batch.labels[batch.labels != IGNORED]
    if batch.allowed is not None:
        return choice_losses(logits, labels, batch.allowed, objective, batch.soft)
    if objective.focal_gamma:
        return focal_losses(cross_entropy(logits, labels, reduction="none"), objective.focal_gamma).sum()
    return cross_entropy(logits, labels, reduction="sum")


def answer_logits(network: Any, batch: Batch, objective: Objective = CROSS_ENTROPY) -> torch.Tensor:
    """Returns the logits of the trained tokens, `[S, V]` fp32, or of the objective's choices, `[S, C]`."""
    wanted = batch.labels != IGNORED
    tokens = None
    if objective.choices is not None:
        tokens = torch.tensor(objective.choices.tokens, device=wanted.device)
    with head_at(network, wanted, tokens), arithmetic(network), masked_attention():
        output = network(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )
    logits: torch.Tensor = output.logits[0].float()
    return logits
