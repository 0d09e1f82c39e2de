"""Which code stood where another was expected."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.ml.codes import category_of
from app.ml.metrics import Codes


@dataclass(frozen=True)
class Confusion:
    """An expected code, what was given in its place, and in how many rows."""

    expected: str | None
    """None: the given code was one too many."""
    given: str | None
    """None: the expected code was left out."""
    rows: int


def align_codes(given: Codes, expected: Codes) -> list[tuple[str | None, str | None]]:
    """Pairs a row's missed codes with its surplus ones: those of the same category in their order.

    What is left is paired across categories only where it is one code on either side. Of more nobody knows which stood for
    which: they are paired with nothing.
    """
    surplus: dict[str, list[str]] = {}
    for code in dict.fromkeys(given):
        if code not in expected:
            surplus.setdefault(category_of(code), []).append(code)
    pairs: list[tuple[str | None, str | None]] = []
    missed: list[str] = []
    for code in dict.fromkeys(expected):
        if code not in given:
            same = surplus.get(category_of(code))
            if same:
                pairs.append((code, same.pop(0)))
            else:
                missed.append(code)
    left = [code for codes in surplus.values() for code in codes]
    if len(missed) == len(left) == 1:
        return [*pairs, (missed[0], left[0])]
    return [*pairs, *((code, None) for code in missed), *((None, code) for code in left)]


def count_confusions(given: Sequence[Codes], expected: Sequence[Codes], *, most: int) -> list[Confusion]:
    """Returns the `most` frequent confusions, the most frequent first."""
    counts = Counter(pair for answer, truth in zip(given, expected, strict=True) for pair in align_codes(answer, truth))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    return [Confusion(true, wrong, rows) for (true, wrong), rows in ranked[:most]]
