"""How far a metric may lie from the truth with so many rows: 95 % intervals.

Shares of rows have Wilson's interval, which does not shrink to nothing where all rows are right; every other metric is
resampled (Efron's percentile bootstrap over rows, seeded, so that the same rows give the same interval).
"""

import math

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_BLOCK_NUMBERS = 2_000_000
_Z = 1.959964

Interval = tuple[float, float]


def wilson_interval(successes: int, trials: int) -> Interval:
    """Returns the 95 % interval of a share (Wilson, JASA 22 (1927) 209); all of 0..1 for no trials."""
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, _Z * _Z / trials
    middle = share + square / 2
    half = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def resampled_sums(columns: NDArray[np.float64], *, seed: int = 0) -> NDArray[np.float64]:
    """Returns `[1000, C]` column sums of 1,000 resamples of the rows `[R, C]`, drawn with replacement.

    Raises:
        ValueError: no rows.
    """
    rows = len(columns)
    if not rows:
        raise ValueError("a bootstrap needs at least one row")
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK_NUMBERS // rows)
    parts = []
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        draws = random.integers(0, rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        parts.append(np.bincount(draws.ravel(), minlength=count * rows).reshape(count, rows) @ columns)
    return np.concatenate(parts)


def percentile_interval(values: NDArray[np.float64]) -> Interval:
    """Returns where the middle 95 % of resampled values lie."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
