"""Whether one model is worse than another on the same rows, or whether chance would do as much: plain Python.

The test flips signs (Fisher; with right and wrong rows it is the exact McNemar test): had both models the same skill, each
row's difference would have been as likely the other way round. It is one-sided, because a gate asks for harm alone.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_Z = 1.959964
_MOST_FLIPS, _MOST_SIGNS = 9_999, 2_000_000


@dataclass(frozen=True)
class PairedComparison:
    """Two models' scores on the same rows, each score in 0..1."""

    rows: int
    baseline: float
    candidate: float
    difference: float
    """Candidate minus baseline, of the means."""
    interval: tuple[float, float]
    """95 % interval of the difference."""
    better_rows: int
    worse_rows: int
    p_worse: float
    """How often chance alone would make the candidate look at least as bad, were both equally good."""

    def to_mapping(self) -> dict[str, object]:
        """Returns the JSON form, rounded to what a reader can use."""
        numbers = {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return {**numbers, "interval": [round(end, 6) for end in self.interval]}


def compare_paired(baseline: Sequence[float], candidate: Sequence[float], *, seed: int = 0) -> PairedComparison:
    """Compares scores row by row; the same scores and seed give the same numbers.

    Raises:
        ValueError: no rows, or two lists of different length.
    """
    rows = len(baseline)
    if not rows or rows != len(candidate):
        raise ValueError("a paired comparison needs the same rows of both models, and at least one")
    differences = [after - before for before, after in zip(baseline, candidate, strict=True)]
    moved = [difference for difference in differences if difference]
    return PairedComparison(
        rows=rows,
        baseline=math.fsum(baseline) / rows,
        candidate=math.fsum(candidate) / rows,
        difference=math.fsum(moved) / rows,
        interval=_interval(moved, rows),
        better_rows=sum(difference > 0 for difference in moved),
        worse_rows=sum(difference < 0 for difference in moved),
        p_worse=_p_worse(moved, seed),
    )


def _interval(moved: Sequence[float], rows: int) -> tuple[float, float]:
    """Agresti and Min's interval (Statistics in Medicine 24 (2005) 729): half a row more in each cell of right and wrong.

    It does not shrink to nothing where no row differs. Differences of F1 are smaller than theirs, which keeps it honest.
    """
    size = rows + 2
    total, squares = math.fsum(moved), math.fsum(difference * difference for difference in moved) + 1
    half = _Z * math.sqrt(max(0.0, squares - total * total / size)) / size
    return max(-1.0, total / size - half), min(1.0, total / size + half)


def _p_worse(moved: Sequence[float], seed: int) -> float:
    count = len(moved)
    if not count:
        return 1.0
    sizes = [abs(difference) for difference in moved]
    if min(sizes) == max(sizes):
        better = sum(difference > 0 for difference in moved)
        return _binomial_tail(better, count)
    observed, flips, dice = math.fsum(moved), max(199, min(_MOST_FLIPS, _MOST_SIGNS // count)), random.Random(seed)
    # A tie must count as one, whatever the order of the sum.
    limit = observed + 1e-9
    as_bad = sum(sum(size if dice.getrandbits(1) else -size for size in sizes) <= limit for _ in range(flips))
    return (as_bad + 1) / (flips + 1)


def _binomial_tail(hits: int, count: int) -> float:
    """Returns how often a fair coin shows at most `hits` heads in `count` throws."""
    ways, total = 1, 1
    for number in range(1, hits + 1):
        ways = ways * (count - number + 1) // number
        total += ways
    # Whole numbers of Python divide exactly, also where 2^count passes a double.
    return total / (1 << count)
