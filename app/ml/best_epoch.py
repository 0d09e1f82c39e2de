"""Which epoch was the best so far: plain Python over what each epoch scored.

Nothing is remembered beside the scores, so a resumed run judges exactly as an uninterrupted one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.ml.spec import BestMetric

_LOWER_IS_BETTER = ("eval_loss", "invalid_rate")


def find_best(scores: Sequence[Mapping[str, Any]], metric: BestMetric) -> int | None:
    """Returns the place of the best scores, the first among equals; scores without the metric do not count."""
    sign = -1 if metric in _LOWER_IS_BETTER else 1
    places = [place for place, entry in enumerate(scores) if metric in entry]
    return max(places, key=lambda place: sign * scores[place][metric]) if places else None


def epochs_without_improvement(scores: Sequence[Mapping[str, Any]], metric: BestMetric) -> int:
    """Returns how many epochs came after the best one; 0 where there is none yet."""
    best = find_best(scores, metric)
    return 0 if best is None else len(scores) - 1 - best
