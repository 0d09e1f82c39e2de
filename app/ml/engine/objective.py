"""What a training step makes smaller: the loss of an answer's tokens."""

from dataclasses import dataclass, replace

import torch

from app.ml.codes import AnswerGrammar
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.soft_targets import SoftTargets
from app.ml.spec import FinetuneSpec

# Below this 1 - p is nothing: with an exponent under 1 its power would have no finite slope at 0.
_LEAST_DOUBT = 1e-7


@dataclass(frozen=True)
class Objective:
    """Which tokens compete, and how much each token of an answer counts."""

    choices: ChoiceTable | None = None
    """None: every token of the vocabulary, at every token of an answer."""
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0
    """Needs `choices`."""
    soft: SoftTargets | None = None
    """Over `choices`."""
    distill_weight: float = 0.0
    distill_temperature: float = 1.0


CROSS_ENTROPY = Objective()
"""-log p(token), over the whole vocabulary and every token of an answer."""


def make_objective(spec: FinetuneSpec, grammar: AnswerGrammar | None, soft: SoftTargets | None = None) -> Objective:
    """Returns what a spec asks for; `grammar` is that of closed answers, `soft` what the spec's teachers said within it.

    Raises:
        NothingToTrain: the grammar leaves nothing to choose.
    """
    if spec.loss_over == "vocabulary":
        return Objective(None, spec.focal_gamma)
    if grammar is None:
        raise ValueError("loss_over 'allowed' needs the grammar of answers")
    objective = Objective(ChoiceTable(grammar), spec.focal_gamma, spec.label_smoothing_factor)
    if soft is None:
        return objective
    return replace(
        objective,
        choices=soft.choices,
        soft=soft,
        distill_weight=spec.distill_weight,
        distill_temperature=spec.distill_temperature,
    )


def choice_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    allowed: torch.Tensor,
    objective: Objective,
    soft: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the summed loss as fp32 scalar of `logits` [S, C] fp32, of which `allowed` [S, C] bool compete.

    `labels` [S] are columns; a negative one is left out. `soft` [S, C] is what teachers would choose, at the objective's
    temperature T; its cross entropy counts T^2 times, as in arXiv 1503.02531. Plain torch with autograd: C is the few
    tokens that codes are written in.
    """
    log_probabilities = choice_log_probabilities(logits, allowed)
    is_kept = labels >= 0
    of_label = log_probabilities.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
    losses = -of_label
    if objective.label_smoothing:
        spread = log_probabilities.masked_fill(~allowed, 0.0).sum(1) / allowed.sum(1)
        losses = (1 - objective.label_smoothing) * losses - objective.label_smoothing * spread
    if soft is not None:
        heat, share = objective.distill_temperature, objective.distill_weight
        cooled = log_probabilities if heat == 1.0 else choice_log_probabilities(logits / heat, allowed)
        taught = -(soft * cooled.masked_fill(~allowed, 0.0)).sum(1)
        losses = (1 - share) * losses + share * heat**2 * taught
    if objective.focal_gamma:
        losses = losses * doubt(-of_label) ** objective.focal_gamma
    return (losses * is_kept).sum()


def choice_log_probabilities(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Returns the log-softmax of `logits` [S, C] over `allowed` [S, C]; -inf elsewhere."""
    return torch.log_softmax(logits.masked_fill(~allowed, float("-inf")), dim=-1)


def focal_losses(losses: torch.Tensor, gamma: float) -> torch.Tensor:
    """Returns (1 - p)^gamma times each of `losses`, which are -log p (arXiv 1708.02002, equation 4)."""
    return losses * doubt(losses) ** gamma


def focal_slopes(losses: torch.Tensor, gamma: float) -> torch.Tensor:
    """Returns the derivative of `focal_losses` by each of `losses`."""
    left = doubt(losses)
    return left**gamma + losses * gamma * left ** (gamma - 1) * (1 - left) * (left > _LEAST_DOUBT)


def doubt(losses: torch.Tensor) -> torch.Tensor:
    """Returns 1 - p of `losses`, which are -log p."""
    return (-torch.expm1(-losses)).clamp(min=_LEAST_DOUBT)
