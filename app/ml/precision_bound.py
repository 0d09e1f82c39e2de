"""How right answers above a confidence are, as a lower bound: exact binomial tails, no normal approximation."""

import math
from collections.abc import Sequence
from functools import lru_cache

CurvePoint = tuple[float, int, int]
"""A confidence, how many held-out answers have at least it, and how many of these are right."""

_STARTS = 5


def binomial_upper_tail(successes: int, trials: int, probability: float) -> float:
    """Returns P(X >= successes) of a binomial X."""
    if successes <= 0:
        return 1.0
    if probability <= 0.0:
        return 0.0
    if probability >= 1.0:
        return 1.0
    win, lose = math.log(probability), math.log1p(-probability)
    whole = math.lgamma(trials + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(whole - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * win + (trials - k) * lose)
            for k in range(successes, trials + 1)
        ),
    )


def clopper_pearson_lower(successes: int, trials: int, *, level: float = 0.95) -> float:
    """Returns the one-sided lower bound of a share that holds with probability `level`; 0 for no trials.

    Clopper and Pearson, Biometrika 26 (1934): the share at which as many successes or more have probability 1 - level.
    """
    if trials == 0 or successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    # 50 halvings: to the last digits of a float.
    for _ in range(50):
        middle = (low + high) / 2
        if binomial_upper_tail(successes, trials, middle) <= 1 - level:
            low = middle
        else:
            high = middle
    return low


@lru_cache(maxsize=1024)
def threshold_for_precision(curve: tuple[CurvePoint, ...], precision: float, level: float) -> float | None:
    """Returns the smallest confidence from which the wanted precision is promised; None if it cannot be.

    `curve`: most confident first. The promise: with probability `level` over the draw of held-out rows, the answers that
    are accepted are right with a probability of at least `precision`, as long as questions come from where those came from.

    Many thresholds are looked at, so each look alone at `level` would promise too much. We test from the most confident
    down and stop at the first failure, which keeps the level whatever the number of tests (fixed-sequence testing); since
    one early error would end it, from five starts, each with a fifth of the error (Angelopoulos et al., "Learn then Test",
    arXiv 2110.01052, section 2). A test at a point is that its Clopper-Pearson lower bound reaches `precision`.
    """
    error = (1 - level) / _STARTS
    # Where even accepted answers that are all right would prove too little there is nothing to test.
    testable = [point for point in curve if 0 < precision < 1 and precision ** point[1] <= error]
    chosen: float | None = None
    for number in range(_STARTS):
        for threshold, accepted, right in testable[number * len(testable) // _STARTS :]:
            if binomial_upper_tail(right, accepted, precision) > error:
                break
            chosen = threshold if chosen is None else min(chosen, threshold)
    return chosen


def precision_curve(confidences: Sequence[float], is_right: Sequence[bool], *, points: int = 200) -> tuple[CurvePoint, ...]:
    """Returns at most `points` points, most confident first, evenly spread over the rows; the last accepts all rows."""
    ranked = sorted(zip(confidences, is_right, strict=True), key=lambda row: -row[0])
    every: list[CurvePoint] = []
    right = 0
    for place, (confidence, hit) in enumerate(ranked):
        right += hit
        # Rows of equal confidence are accepted together.
        if place + 1 == len(ranked) or ranked[place + 1][0] < confidence:
            every.append((confidence, place + 1, right))
    kept = min(points, len(every))
    return tuple(every[(number + 1) * len(every) // kept - 1] for number in range(kept))
