"""Questions ranked by what their characters say of the answer: what `prompt_neighbours_by: answers` looks neighbours up with.

Characters alone take a greeting, a product and what is asked of it for equally telling. Here the training answers say what tells:

* An n-gram weighs the log of how much likelier two questions that share it are to share a code than any two are.
* A question's n-grams say which shapes of codes it asks for (naive Bayes; the shape of `取消方式_59` is `取消方式_0`), and an
  answer ranks higher the better its shapes fit. So a question finds its product's other answers of the shape asked for, however
  they were asked for.

Nothing is stored: all of it follows from an index and the vocabulary. Constants were chosen on a split of the telecom training
rows (docs/results/quality.md).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.ml.codes import shape_of
from app.ml.engine.compiled import compiled
from app.ml.engine.question_index import QuestionIndex

_MOST_SHAPES = 256
# What n-grams of few questions say of their likeness is drawn to five times that of any two, as 20 pairs would.
_PRIOR_PAIRS, _PRIOR_LIKENESS = 20.0, 5.0
# N-grams overlap, and count as if a third of them stood alone.
_INDEPENDENT_SHARE = 0.3
_SHAPE_WEIGHT = 0.2


@dataclass(frozen=True, eq=False)
class AnswerShapes:
    """A ranking of an index's questions and answers, for one vocabulary."""

    index: QuestionIndex
    weights: NDArray[np.float64]
    """[G] what two questions that hold an n-gram share"""
    inverse_norms: NDArray[np.float64]
    """[M] one over the length of each question's vector"""
    shape_starts: NDArray[np.int64]
    """[A + 1] the first of each answer's shapes in `shapes`"""
    shapes: NDArray[np.int64]
    """Numbers of shapes, distinct within an answer"""
    shape_counts: NDArray[np.int64]
    """[K] how many questions are answered with a shape"""

    unknown_weight: float = math.log(_PRIOR_LIKENESS)
    """What an n-gram weighs that no training question holds."""

    @classmethod
    def of(cls, index: QuestionIndex, codes: Sequence[str]) -> "AnswerShapes":
        """Ranks an index that was built with a vocabulary's `codes`; the 256 most frequent shapes have a say."""
        answer_shapes = [{shape_of(codes[number]) for number in answer} for answer in index.answers]
        questions_of = np.diff(index.answer_starts).tolist()
        counts: Counter[str] = Counter()
        for shapes, questions in zip(answer_shapes, questions_of, strict=True):
            counts.update(dict.fromkeys(shapes, questions))
        number_of = {shape: number for number, (shape, _) in enumerate(counts.most_common(_MOST_SHAPES))}
        numbers = [sorted(number_of[shape] for shape in shapes if shape in number_of) for shapes in answer_shapes]
        weights = _likeness_weights(index, code_count=len(codes))
        return cls(
            index=index,
            weights=weights,
            inverse_norms=index.inverse_norms_of(weights),
            shape_starts=_starts_of(numbers),
            shapes=np.array([number for group in numbers for number in group], dtype=np.int64),
            shape_counts=np.array([counts[shape] for shape in number_of], dtype=np.int64),
        )

    def answer_terms(self, ngrams: NDArray[np.uint32], left_out: int) -> NDArray[np.float64]:
        """Returns [A] what each answer gains by its shapes, 0 to 0.2, as if the question `left_out` were not there."""
        index = self.index
        return _shape_terms(
            ngrams,
            index.hashes,
            index.starts,
            index.rows,
            index.answer_of_document,
            self.shape_starts,
            self.shapes,
            self.shape_counts,
            left_out,
        )


def _likeness_weights(index: QuestionIndex, *, code_count: int) -> NDArray[np.float64]:
    questions = int(index.answer_starts[-1])
    questions_of = np.diff(index.answer_starts)
    code_starts = _starts_of(index.answers)
    flat = np.array([number for answer in index.answers for number in answer], dtype=np.int64)
    holders = np.bincount(flat, weights=np.repeat(questions_of, np.diff(code_starts)), minlength=code_count)
    # Any two questions; one pair more, so that no likelihood is 0.
    likeness = (float((holders * (holders - 1)).sum()) + 1) / (questions * max(1, questions - 1) + 1)
    same = _same_code_pairs(index.starts, index.rows, index.answer_of_document, code_starts, flat, code_count)
    lengths = np.diff(index.starts).astype(np.float64)
    likely = (same + _PRIOR_PAIRS * _PRIOR_LIKENESS * likeness) / (lengths * (lengths - 1) + _PRIOR_PAIRS)
    return np.asarray(np.log(np.maximum(1.0, likely / likeness)) * (lengths > 0), dtype=np.float64)


def _starts_of(groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, groups)], dtype=np.int64)


@compiled
def _same_code_pairs(
    starts: NDArray[np.int64],
    rows: NDArray[np.int64],
    answer_of: NDArray[np.int64],
    code_starts: NDArray[np.int64],
    codes: NDArray[np.int64],
    code_count: int,
) -> NDArray[np.float64]:
    """Returns [G] how often, over ordered pairs of questions that hold an n-gram, a code of the one is the other's, too."""
    pairs, seen = np.zeros(len(starts) - 1), np.zeros(code_count, np.int64)
    for ngram in range(len(starts) - 1):
        for place in range(starts[ngram], starts[ngram + 1]):
            answer = answer_of[rows[place]]
            for at in range(code_starts[answer], code_starts[answer + 1]):
                pairs[ngram] += 2 * seen[codes[at]]
                seen[codes[at]] += 1
        for place in range(starts[ngram], starts[ngram + 1]):
            answer = answer_of[rows[place]]
            for at in range(code_starts[answer], code_starts[answer + 1]):
                seen[codes[at]] = 0
    return pairs


@compiled
def _shape_terms(
    ngrams: NDArray[np.uint32],
    hashes: NDArray[np.uint32],
    starts: NDArray[np.int64],
    rows: NDArray[np.int64],
    answer_of: NDArray[np.int64],
    shape_starts: NDArray[np.int64],
    shapes: NDArray[np.int64],
    shape_counts: NDArray[np.int64],
    left_out: int,
) -> NDArray[np.float64]:
    questions, kinds = len(answer_of), len(shape_counts)
    evidence, hits = np.zeros(kinds), np.zeros(kinds)
    for ngram in ngrams:
        place = np.searchsorted(hashes, ngram)
        if place == len(hashes) or hashes[place] != ngram:
            continue
        hits[:] = 0
        holders = 0
        for index in range(starts[place], starts[place + 1]):
            row = rows[index]
            if row != left_out:
                holders += 1
                for at in range(shape_starts[answer_of[row]], shape_starts[answer_of[row] + 1]):
                    hits[shapes[at]] += 1
        if holders == 0:
            continue
        # One question of average habits more, on both sides.
        share = holders / questions
        for shape in range(kinds):
            count = shape_counts[shape]
            with_shape = (hits[shape] + share) / (count + 1)
            without = (holders - hits[shape] + share) / (questions - count + 1)
            evidence[shape] += math.log(with_shape / without)
    square = 0.0
    for shape in range(kinds):
        count = shape_counts[shape]
        odds = (count + 0.5) / (questions - count + 0.5)
        evidence[shape] = 1 / (1 + math.exp(-_INDEPENDENT_SHARE * evidence[shape]) / odds)
        square += evidence[shape] ** 2
    terms = np.zeros(len(shape_starts) - 1)
    for answer in range(len(terms)):
        asked = 0.0
        for at in range(shape_starts[answer], shape_starts[answer + 1]):
            asked += evidence[shapes[at]]
        count = shape_starts[answer + 1] - shape_starts[answer]
        if count > 0 and square > 0:
            terms[answer] = _SHAPE_WEIGHT * asked / math.sqrt(square * count)
    return terms
