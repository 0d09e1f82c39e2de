"""Two models on the same rows: is one better, or could chance have made the difference?

The rows are the sample: a test says what other rows of the same kind would show, not what another seed of the training would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.ml.intervals import Interval, percentile_interval, resampled_sums
from app.ml.precision_bound import binomial_upper_tail

Verdict = Literal["better", "worse", "not distinguishable"]
SIGNIFICANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """A model against a baseline on the rows that both answered."""

    rows: int
    only_baseline_right: int
    only_this_right: int
    exact_match_difference: float
    """This one's less the baseline's."""
    exact_match_p: float
    """Two-sided, of McNemar's exact test: how often chance alone makes a difference as large."""
    set_f1_difference: float
    set_f1_interval: Interval
    """95 %, from 1,000 resamples of the pairs."""


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Returns the two-sided p of the exact test (McNemar, Psychometrika 12 (1947) 153): discordant rows as tosses of a coin."""
    return min(1.0, 2 * binomial_upper_tail(max(only_first, only_second), only_first + only_second, 0.5))


def compare_paired(baseline: Sequence[tuple[bool, float]], this: Sequence[tuple[bool, float]]) -> PairedComparison:
    """Compares two models row by row; each row is whether it is right, and its set F1.

    Raises:
        ValueError: no rows, or not the same number of them.
    """
    if not baseline or len(baseline) != len(this):
        raise ValueError("a paired comparison needs the same rows of both, and at least one")
    pairs = list(zip(baseline, this, strict=True))
    only_baseline = sum(before and not now for (before, _), (now, _) in pairs)
    only_this = sum(now and not before for (before, _), (now, _) in pairs)
    differences = np.array([now - before for (_, before), (_, now) in pairs])
    return PairedComparison(
        rows=len(pairs),
        only_baseline_right=only_baseline,
        only_this_right=only_this,
        exact_match_difference=(only_this - only_baseline) / len(pairs),
        exact_match_p=mcnemar_exact(only_baseline, only_this),
        set_f1_difference=float(differences.mean()),
        set_f1_interval=percentile_interval(resampled_sums(differences[:, None])[:, 0] / len(pairs)),
    )


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Returns p values that may each be held against one level, however many there are (Holm, Scand. J. Statist. 6 (1979) 65)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = so_far
    return adjusted


def verdict_of(comparison: PairedComparison, adjusted_p: float) -> Verdict:
    """Returns what may be said of the exact match: `not distinguishable` unless chance is unlikely."""
    if adjusted_p >= SIGNIFICANCE:
        return "not distinguishable"
    return "better" if comparison.exact_match_difference > 0 else "worse"
