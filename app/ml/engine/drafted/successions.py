"""What training answers say of the code that comes next: how often each occurs, which follows which, and how numbers run on.

Codes are often numbered (`开通方式_98`), and an answer that lists several of a category tends to run along their numbers,
whatever stands between them. How far it steps is counted over all categories, so it also speaks for codes that training showed
rarely.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.ml.codes import AnswerGrammar
from app.ml.engine.drafted.grammar_arrays import Ints

_MOST_FOLLOWING = 12
_FARTHEST_STEP = 6
_NUMBERED = re.compile(r"(.*\D)(\d{1,9})")
_LONGEST_NUMBERED = 64

Floats = NDArray[np.float64]


class Successions(NamedTuple):
    """The C codes of training answers, by rank."""

    counted_below: Floats
    """[C + 1]: how often the codes of lower rank occur, together"""
    goes_on: Floats
    """[C]: the share of answers that go on behind a code"""
    series: Ints
    """[C]: codes that differ in their number alone have the same; -1: not numbered"""
    following_start: Ints
    """[C + 1]: where the codes that follow a code begin in the two below; their weights sum to 1 at most"""
    following: Ints
    following_weight: Floats
    beside_start: Ints
    """[C + 1]: where the codes that are numbered near a code begin in the two below"""
    beside: Ints
    beside_weight: Floats


def count_successions(grammar: AnswerGrammar, answers: Iterable[tuple[Sequence[int], int]]) -> Successions:
    """Counts answers, given as codes by their place in the vocabulary, and how often each occurs."""
    rank_of = grammar.rank_of_code
    codes_of_rank = [grammar.vocabulary.codes[code] for code in grammar.code_of_rank]
    places = [_place_of(code) for code in codes_of_rank]
    counts = [0.1] * len(places)
    following: dict[int, Counter[int]] = {}
    steps: Counter[int] = Counter()
    further = 0
    for codes, count in answers:
        last: dict[str, int] = {}
        before: int | None = None
        for code in codes:
            rank = rank_of[code]
            counts[rank] += count
            if before is not None:
                following.setdefault(before, Counter())[rank] += count
                further += count
            before = rank
            if (place := places[rank]) is not None:
                if place[0] in last:
                    steps[place[1] - last[place[0]]] += count
                last[place[0]] = place[1]
    rank_at = {place: rank for rank, place in enumerate(places) if place is not None}
    series_of = {series: number for number, series in enumerate(dict.fromkeys(place[0] for place in places if place))}
    step_weights = [(step, times / further) for step, times in steps.items() if step and abs(step) <= _FARTHEST_STEP]
    follows, nexts = [], []
    for rank, place in enumerate(places):
        after = following.get(rank, Counter())
        whole = after.total()
        follows.append([(other, times / whole) for other, times in after.most_common(_MOST_FOLLOWING)])
        found = [] if place is None else [(rank_at.get((place[0], place[1] + step)), weight) for step, weight in step_weights]
        nexts.append([(other, weight) for other, weight in found if other is not None])
    goes_on = [following[rank].total() / counts[rank] if rank in following else 0.0 for rank in range(len(places))]
    return Successions(
        np.concatenate([[0.0], np.cumsum(counts)]),
        np.array(goes_on, dtype=np.float64),
        np.array([-1 if place is None else series_of[place[0]] for place in places], dtype=np.int32),
        *_lists(follows),
        *_lists(nexts),
    )


def _lists(rows: Sequence[Sequence[tuple[int, float]]]) -> tuple[Ints, Ints, Floats]:
    starts = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    flat = [pair for row in rows for pair in row]
    return starts, np.array([one for one, _ in flat], dtype=np.int32), np.array([one for _, one in flat], dtype=np.float64)


def _place_of(code: str) -> tuple[str, int] | None:
    """Returns the text before a code's number, and the number."""
    match = _NUMBERED.fullmatch(code) if len(code) <= _LONGEST_NUMBERED else None
    return (match[1], int(match[2])) if match else None
