"""Questions that no training row asks, and whose answer follows from several rows together.

* A joint question tells both of its answers: `语音包怎么退，还有有效期多久` with `取消方式_60|30天` says that `语音包有效期多久`
  answers `30天`.
* What is told of a whole tells of its parts, one plan of a product with a price or a name of its own: `语音包怎么退` answers
  `取消方式_59|取消方式_60`, `语音包有效期多久` answers `7天|30天`, `15元的语音包怎么退` answers `取消方式_60`. The plan of
  15 yuan is the second of two, so `15元的语音包有效期多久` answers `30天`.

Found in bare questions and their codes alone, and trusted only where the rows themselves bear it out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.ml.augmentation.joins import Codes, JoinBook
from app.ml.augmentation.phrases import PhraseBook, mined_places

_MOST_STRETCH_CHARS = 12
_FEWEST_CHECKS, _LEAST_RIGHT = 20, 0.85

Ask = tuple[str, Codes]
_Answers = dict[Codes, list[str]]
_Heads = Mapping[str, _Answers]


@dataclass(frozen=True)
class InferenceBook:
    """What follows, by the head of the question: what stands before its ask."""

    by_head: Mapping[str, Sequence[Ask]] = field(default_factory=dict)
    """Asks that no row puts behind a head, each with its codes."""

    def __len__(self) -> int:
        return sum(map(len, self.by_head.values()))

    def questions(self) -> list[Ask]:
        """Returns bare questions with their codes: of all asks for the same the first."""
        first: dict[tuple[str, Codes], str] = {}
        for head, asks in self.by_head.items():
            for ask, codes in asks:
                first.setdefault((head, codes), head + ask)
        return [(question, codes) for (_, codes), question in first.items()]


def mine_inferences(
    questions: Sequence[str], answers: Sequence[Sequence[str]], phrases: PhraseBook, joins: JoinBook
) -> InferenceBook:
    """Finds what follows from bare questions and their answers; of many rows 5,000 evenly spread ones are looked at.

    `joins` knows where asks begin and what joins them. Each of the two kinds is checked on the rows: joint questions on rows
    that ask one of the two things alone, parts on their own rows with one left out. Where fewer than 20 can be checked or fewer
    than 85 % come out right, nothing of that kind follows.
    """
    if not joins:
        return InferenceBook()
    rows = [(phrases.core(questions[place]), tuple(answers[place])) for place in mined_places(len(questions))]
    told: dict[str, _Answers] = defaultdict(lambda: defaultdict(list))
    split: list[tuple[str, str, Codes]] = []
    for core, codes in rows:
        both, cut = joins.cut_joint(core), joins.cut(core)
        if both is not None:
            head, first, second = both
            if len(codes) == 2:
                split += [(head, first, codes[:1]), (head, second, codes[1:])]
        elif cut is not None:
            told[cut[0]][codes].append(cut[1])
    alone = {(head, ask): codes for head, found in told.items() for codes, asks in found.items() for ask in asks}
    followed: dict[str, dict[Ask, None]] = defaultdict(dict)
    if _is_borne_out([alone[head, ask] == codes for head, ask, codes in split if (head, ask) in alone]):
        for head, ask, codes in split:
            if codes not in told[head]:
                followed[head][ask, codes] = None
        for head, ask, codes in split:
            told[head][codes].append(ask)
    for head, asks in _parts_of_wholes(told):
        followed[head] |= dict.fromkeys(asks)
    return InferenceBook({head: tuple(asks) for head, asks in followed.items() if asks})


def _is_borne_out(checks: Sequence[bool]) -> bool:
    return len(checks) >= _FEWEST_CHECKS and sum(checks) >= _LEAST_RIGHT * len(checks)


def _parts_of_wholes(heads: _Heads) -> Iterator[tuple[str, list[Ask]]]:
    """Yields heads of parts with what follows for each from its whole.

    A head is a part of another where a stretch taken out of it makes the other, and its answer stands in the other's list. Lists
    are compared with lists of the same length alone, and a part's place must be the same in all of them.
    """
    seats = {(part, whole): list(_seats(heads[part], heads[whole])) for part in heads for whole in _wholes(part, heads)}
    if not _is_borne_out([is_right for found in seats.values() for is_right in _checks(found)]):
        return
    for (part, whole), found in seats.items():
        known = {code for codes in heads[part] for code in codes}
        places = _places(found)
        for codes, asks in heads[whole].items():
            seat = places.get(len(codes))
            if seat is not None and codes[seat] not in known:
                yield part, [(ask, (codes[seat],)) for ask in asks]


def _wholes(part: str, heads: _Heads) -> Iterator[str]:
    """Yields the heads that a part becomes when a stretch is taken out of it."""
    found = {
        part[:start] + part[start + length :]
        for length in range(1, min(_MOST_STRETCH_CHARS, len(part) - 1) + 1)
        for start in range(len(part) - length + 1)
    }
    yield from sorted(whole for whole in found if whole in heads)


def _seats(part: _Answers, whole: _Answers) -> Iterator[tuple[str, int, int]]:
    """Yields each code that is a part's answer and stands in a list of the whole: the code, its place, the list's length."""
    for codes in part:
        if len(codes) == 1:
            for listed in whole:
                if len(listed) > 1 and codes[0] in listed:
                    yield codes[0], listed.index(codes[0]), len(listed)


def _places(seats: Sequence[tuple[str, int, int]]) -> dict[int, int]:
    """Returns for each length of list the part's place, where all seats agree on it."""
    found: dict[int, set[int]] = defaultdict(set)
    for _, place, length in seats:
        found[length].add(place)
    return {length: next(iter(places)) for length, places in found.items() if len(places) == 1}


def _checks(seats: Sequence[tuple[str, int, int]]) -> Iterator[bool]:
    """Yields of each seat that others speak of whether most of them say its place."""
    for code, place, length in seats:
        others = Counter(seat for other, seat, listed in seats if listed == length and other != code)
        if others:
            yield others.most_common(1)[0][0] == place
