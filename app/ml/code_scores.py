"""How well single codes and categories are answered: micro and macro F1, precision and recall by category.

A row is a set of true codes and a set of given ones (multi-label classification), so 开通方式_98 for 开通方式_99 is a miss and a
false alarm, however like they look. Within a category the counts of its codes are pooled.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.ml.codes import category_of
from app.ml.intervals import Interval, percentile_interval, resampled_sums
from app.ml.metrics import Codes

MAX_CATEGORIES = 200


@dataclass(frozen=True)
class LabelCounts:
    """How often a code, or the codes of a category, were true, given, and both."""

    expected: int
    given: int
    right: int

    @property
    def precision(self) -> float:
        """Share of the given ones that are right; 0 where none was given."""
        return self.right / self.given if self.given else 0.0

    @property
    def recall(self) -> float:
        """Share of the true ones that were given; 0 where there are none."""
        return self.right / self.expected if self.expected else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where neither is anything."""
        return 2 * self.right / (self.expected + self.given) if self.expected + self.given else 0.0

    def to_mapping(self) -> dict[str, float]:
        """Returns the JSON form."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "expected": self.expected,
            "given": self.given,
            "right": self.right,
        }


def count_codes(given: Sequence[Codes], expected: Sequence[Codes]) -> dict[str, LabelCounts]:
    """Returns the counts of every code that is true or given anywhere, the most frequent true ones first."""
    true_of: Counter[str] = Counter()
    given_of: Counter[str] = Counter()
    right_of: Counter[str] = Counter()
    for answer, truth in zip(given, expected, strict=True):
        true_of.update(set(truth))
        given_of.update(set(answer))
        right_of.update(set(truth) & set(answer))
    ranked = sorted(true_of | given_of, key=lambda code: (-true_of[code], code))
    return {code: LabelCounts(true_of[code], given_of[code], right_of[code]) for code in ranked}


def pool_categories(by_code: dict[str, LabelCounts]) -> dict[str, LabelCounts]:
    """Returns the counts by category, the most frequent true ones first."""
    pooled: dict[str, LabelCounts] = {}
    for code, counts in by_code.items():
        so_far = pooled.get(category := category_of(code), LabelCounts(0, 0, 0))
        pooled[category] = LabelCounts(
            so_far.expected + counts.expected, so_far.given + counts.given, so_far.right + counts.right
        )
    return dict(sorted(pooled.items(), key=lambda item: (-item[1].expected, item[0])))


def macro_f1(counts: dict[str, LabelCounts]) -> float:
    """Returns the mean F1 over the codes or categories that are true or given anywhere; 1.0 where there are none."""
    return sum(one.f1 for one in counts.values()) / len(counts) if counts else 1.0


def f1_intervals(given: Sequence[Codes], expected: Sequence[Codes], categories: Sequence[str]) -> dict[str, Interval]:
    """Returns the intervals of `set_f1`, `micro_f1` and `macro_f1_by_category` over resampled rows.

    `categories`: all that are true or given anywhere. Of more than 200 the last has no interval: it would take gigabytes.
    """
    is_by_category = len(categories) <= MAX_CATEGORIES
    place = {category: number if is_by_category else 0 for number, category in enumerate(categories)}
    columns = len(categories) if is_by_category else 1
    right = np.zeros((len(given), columns))
    both = np.zeros_like(right)
    for row, (answer, truth) in enumerate(zip(given, expected, strict=True)):
        for codes, target in ((set(answer) & set(truth), right), (set(answer), both), (set(truth), both)):
            for code in codes:
                target[row, place[category_of(code)]] += 1
    row_f1 = _ratio(2 * right.sum(1), both.sum(1))
    sums = resampled_sums(np.column_stack([row_f1, right, both]))
    rights, boths = sums[:, 1 : 1 + columns], sums[:, 1 + columns :]
    intervals = {
        "set_f1": percentile_interval(sums[:, 0] / len(given)),
        "micro_f1": percentile_interval(_ratio(2 * rights.sum(1), boths.sum(1))),
    }
    if is_by_category:
        # A category that a resample does not show has no F1 there: the mean is over those that it does.
        shown = np.maximum((boths > 0).sum(1), 1)
        mean = np.where(boths > 0, _ratio(2 * rights, boths), 0.0).sum(1) / shown
        intervals["macro_f1_by_category"] = percentile_interval(mean)
    return intervals


def _ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the quotients; 1.0 for 0 / 0: nothing was wanted and nothing given."""
    quotients: NDArray[np.float64] = np.divide(numerators, denominators, out=np.ones_like(numerators), where=denominators > 0)
    return quotients
