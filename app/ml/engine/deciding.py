"""Which of a beam's complete answers is given: not the likeliest order of codes, but the best set of them.

The same codes in another order are another string with a probability of its own, and the same answer to a customer.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from app.ml.codes import DecideBy
from app.ml.engine.asks import EngineAnswer
from app.ml.engine.decoding import DecodedAnswer


@dataclass(frozen=True)
class _Leaf:
    answer: DecodedAnswer
    in_vocabulary: tuple[bool, ...]


def decided(answer: EngineAnswer, by: DecideBy) -> EngineAnswer:
    """Returns an answer whose best and alternatives are distinct sets of codes, each as probable as all its orders together.

    A set stands in its likeliest order. The best has the highest probability, or with `expected_f1` the highest expected F1
    over all sets of the beam (minimum Bayes risk); the alternatives follow by probability. Calibration and its threshold
    were found for single orders, so the answer no longer claims them.
    """
    if by == "answer":
        return answer
    leaves = [_Leaf(answer.best, answer.in_vocabulary)]
    leaves += map(_Leaf, answer.alternatives, answer.alternatives_in_vocabulary)
    by_codes: dict[frozenset[str], list[_Leaf]] = {}
    for leaf in leaves:
        by_codes.setdefault(frozenset(leaf.answer.codes), []).append(leaf)
    ranked = sorted(map(_together, by_codes.values()), key=lambda leaf: -leaf.answer.confidence)
    if by == "expected_f1":
        best = max(ranked, key=lambda leaf: _expected_f1(leaf, ranked))
        ranked = [best, *(leaf for leaf in ranked if leaf is not best)]
    return replace(
        answer,
        best=ranked[0].answer,
        in_vocabulary=ranked[0].in_vocabulary,
        completion_tokens=ranked[0].answer.tokens,
        alternatives=tuple(leaf.answer for leaf in ranked[1:]),
        alternatives_in_vocabulary=tuple(leaf.in_vocabulary for leaf in ranked[1:]),
        calibrated=False,
        precision_threshold=None,
    )


def _together(leaves: list[_Leaf]) -> _Leaf:
    likeliest = max(leaves, key=lambda leaf: leaf.answer.confidence)
    confidence = min(1.0, math.fsum(leaf.answer.confidence for leaf in leaves))
    return replace(likeliest, answer=replace(likeliest.answer, confidence=confidence))


def _expected_f1(leaf: _Leaf, all_leaves: Iterable[_Leaf]) -> float:
    codes = frozenset(leaf.answer.codes)
    return math.fsum(
        other.answer.confidence * 2 * len(codes & set(other.answer.codes)) / (len(codes) + len(set(other.answer.codes)))
        for other in all_leaves
    )
