"""Scores of answers against truth: plain Python over code tuples.

An exact match compares sets, because the order of codes follows the source graph; `ordered_match` compares order too.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

Codes = tuple[str, ...]


@dataclass(frozen=True)
class AnswerScores:
    """Metrics over `rows` answers; every rate is in 0..1."""

    rows: int
    exact_match: float
    ordered_match: float
    set_f1: float
    """Mean over rows of the F1 between predicted and true code sets."""
    micro_f1: float
    invalid_rate: float
    """Share of answers that hold a code outside the vocabulary, or none at all."""

    def to_mapping(self) -> dict[str, object]:
        """Returns the JSON form."""
        return asdict(self)


def set_f1(predicted: Codes, true: Codes) -> float:
    """Returns 2 |P∩T| / (|P| + |T|) of two code sets; 1.0 where both are empty."""
    given, wanted = set(predicted), set(true)
    if not given and not wanted:
        return 1.0
    return 2 * len(given & wanted) / (len(given) + len(wanted))


def score_answers(predicted: Sequence[Codes], true: Sequence[Codes], vocabulary: frozenset[str] | None) -> AnswerScores:
    """Scores answers row by row; without a vocabulary only an answer with an empty code is invalid.

    Raises:
        ValueError: no rows, or two lists of different length.
    """
    if not true or len(predicted) != len(true):
        raise ValueError("scores need as many answers as truths, and at least one")
    pairs = list(zip(predicted, true, strict=True))
    rows = len(pairs)
    overlap = sum(len(set(p) & set(t)) for p, t in pairs)
    sizes = sum(len(set(p)) + len(set(t)) for p, t in pairs)
    return AnswerScores(
        rows=rows,
        exact_match=sum(set(p) == set(t) for p, t in pairs) / rows,
        ordered_match=sum(p == t for p, t in pairs) / rows,
        set_f1=sum(set_f1(p, t) for p, t in pairs) / rows,
        micro_f1=2 * overlap / sizes if sizes else 1.0,
        invalid_rate=sum(is_invalid(p, vocabulary) for p, _ in pairs) / rows,
    )


def is_invalid(codes: Codes, vocabulary: frozenset[str] | None) -> bool:
    """Says whether an answer holds no code, an empty one, or one outside the vocabulary."""
    if not codes or "" in codes:
        return True
    return vocabulary is not None and any(code not in vocabulary for code in codes)
