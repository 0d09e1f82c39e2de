"""What the nearest training questions were answered with."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.ml.codes import AnswerGrammar
from app.ml.engine.compiled import compiled
from app.ml.engine.drafted.grammar_arrays import Ints
from app.ml.engine.drafted.successions import Floats
from app.ml.engine.question_index import QuestionIndex

_NEIGHBOURS = 32
# How sharply a nearer question's answer is preferred.
_NEARNESS_POWER = 6
_LEAST_SHARE = 0.001


class Likely(NamedTuple):
    """A likely answers, and their K codes."""

    starts: Ints
    """[A + 1]: where an answer's codes begin in `codes`"""
    codes: Ints
    """Ranks"""
    weights: Floats
    """[A]: they sum to 1"""
    near: Ints
    """[K]: the codes of all these answers, ranks"""
    near_weights: Floats
    """[K]: each with the weight of all answers that hold it"""


def nothing_likely() -> Likely:
    """Returns what is known without an index."""
    no_ints, no_floats = np.zeros(0, np.int32), np.zeros(0, np.float64)
    return Likely(np.zeros(1, np.int32), no_ints, no_floats, no_ints, no_floats)


class Recall:
    """An adapter's index of training questions, with its answers by rank."""

    def __init__(self, index: QuestionIndex, grammar: AnswerGrammar) -> None:
        """`grammar`: of the vocabulary that the index was built with."""
        self._index = index
        self._starts = np.cumsum([0, *map(len, index.answers)]).astype(np.int32)
        self._ranks = np.array([grammar.rank_of_code[code] for answer in index.answers for code in answer], dtype=np.int32)
        self._code_count = len(grammar.vocabulary.codes)

    def likely(self, question: str) -> Likely:
        """Returns the answers of the questions nearest to a bare question."""
        numbers, similarities = self._index.nearest_answers(question, _NEIGHBOURS)
        return Likely(*_gather(self._starts, self._ranks, numbers, similarities, self._code_count))


@compiled
def _gather(
    starts: Ints, ranks: Ints, numbers: NDArray[np.int64], similarities: Floats, code_count: int
) -> tuple[Ints, Ints, Floats, Ints, Floats]:
    weights = np.maximum(similarities, 0.0) ** _NEARNESS_POWER
    total = weights.sum()
    kept = 0
    length = 0
    for place in range(len(numbers)):
        if total > 0 and weights[place] >= _LEAST_SHARE * total:
            numbers[kept], weights[kept] = numbers[place], weights[place] / total
            length += starts[numbers[kept] + 1] - starts[numbers[kept]]
            kept += 1
    own_starts, codes = np.empty(kept + 1, np.int32), np.empty(length, np.int32)
    by_code = np.zeros(code_count, np.float64)
    near = np.empty(length, np.int32)
    distinct = 0
    at = 0
    for place in range(kept):
        own_starts[place] = at
        for index in range(starts[numbers[place]], starts[numbers[place] + 1]):
            rank = ranks[index]
            codes[at] = rank
            at += 1
            if by_code[rank] == 0.0:
                near[distinct] = rank
                distinct += 1
            by_code[rank] += weights[place]
    own_starts[kept] = at
    near = near[:distinct].copy()
    near_weights = np.empty(distinct, np.float64)
    for place in range(distinct):
        near_weights[place] = by_code[near[place]]
    return own_starts, codes, weights[:kept].copy(), near, near_weights
