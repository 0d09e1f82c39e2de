"""Two questions about one thing joined to one that asks both, as customers do ("…怎么取消，还有多少钱").

How they are joined is found in the training rows alone: a question whose codes are those of two others, and whose text is the
first one's with something and the end of the second one behind it, shows a joint (`，还有`, `和`, a space) and two ends that
ask. Questions that begin alike and end with such asks may then be joined likewise.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.ml.augmentation.phrases import PhraseBook, mined_places

_FEWEST_ANSWERS = 3
_MOST_JOINT_CHARS = 4
_FEWEST_HEAD_CHARS, _FEWEST_ASK_CHARS = 2, 2
_MOST_CORE_CHARS = 60

Codes = tuple[str, ...]


@dataclass(frozen=True)
class JoinBook:
    """Which questions may be joined, and by what."""

    joints: tuple[str, ...] = ()
    asks: frozenset[str] = frozenset()
    """Ends of questions that ask for one thing."""
    by_head: Mapping[str, Sequence[tuple[str, Codes]]] = field(default_factory=dict)
    """What stands before an ask -> the asks behind it in the training rows, each with its codes."""
    most_codes: int = 1
    """Of one answer: no model says longer ones than its training rows have."""

    def __len__(self) -> int:
        return len(self.joints)

    def joined(self, core: str, codes: Sequence[str], chooser: random.Random) -> tuple[str, Codes] | None:
        """Returns a question's core joined with another ask, and the codes of both; None where there is none to join it with."""
        cut = self.cut(core) if self.joints else None
        if cut is None:
            return None
        head, ask = cut
        room = self.most_codes - len(codes)
        others = [
            (other, more)
            for other, more in self.by_head.get(head, ())
            if other != ask and len(more) <= room and not set(more) & set(codes)
        ]
        if not others:
            return None
        other, more = chooser.choice(others)
        return f"{head}{ask}{chooser.choice(self.joints)}{other}", interleaved(codes, more)

    def with_asks(self, more: Mapping[str, Sequence[tuple[str, Codes]]]) -> "JoinBook":
        """Returns a book that joins further asks, too; `more` is as `by_head`."""
        return replace(
            self, by_head={head: (*self.by_head.get(head, ()), *more.get(head, ())) for head in {*self.by_head, *more}}
        )

    def cut(self, core: str) -> tuple[str, str] | None:
        """Returns a core's head and ask, the longest that is known; None where it ends with none."""
        for place in range(_FEWEST_HEAD_CHARS, len(core) - _FEWEST_ASK_CHARS + 1):
            if core[place:] in self.asks:
                return core[:place], core[place:]
        return None

    def cut_joint(self, core: str) -> tuple[str, str, str] | None:
        """Returns the head of a joint question and its two asks; None for any other."""
        cut = self.cut(core)
        joint = None if cut is None else max((text for text in self.joints if cut[0].endswith(text)), key=len, default=None)
        if cut is None or joint is None:
            return None
        first = self.cut(cut[0][: -len(joint)])
        return None if first is None else (*first, cut[1])


def interleaved(first: Sequence[str], second: Sequence[str]) -> Codes:
    """Returns the codes of two answers in one: in turns where both have as many, plan by plan, else one behind the other."""
    if len(first) == len(second):
        return tuple(code for pair in zip(first, second, strict=True) for code in pair)
    return (*first, *second)


def mine_joins(questions: Sequence[str], answers: Sequence[Sequence[str]], phrases: PhraseBook) -> JoinBook:
    """Finds joints and asks in bare questions; of many rows 5,000 evenly spread ones are looked at.

    A joint needs rows of three different answers. `phrases`: whose starts and ends are left out, and whose exchanges at the
    end make more asks of those that are found.
    """
    cores: dict[str, Codes] = {}
    ambiguous: set[str] = set()
    for place in mined_places(len(questions)):
        core, codes = phrases.core(questions[place]), tuple(answers[place])
        if set(cores.get(core, codes)) != set(codes):
            ambiguous.add(core)
        cores[core] = codes
    # A text with two answers says nothing.
    cores = {core: codes for core, codes in cores.items() if core not in ambiguous and len(core) <= _MOST_CORE_CHARS}
    answers_of_joint: dict[str, set[frozenset[str]]] = defaultdict(set)
    asks_of_joint: dict[str, set[str]] = defaultdict(set)
    for core, codes in cores.items():
        for joint, ask, other in _joints_of(core, frozenset(codes), cores):
            answers_of_joint[joint].add(frozenset(codes))
            asks_of_joint[joint] |= {ask, other}
    joints = tuple(sorted(joint for joint, found in answers_of_joint.items() if len(found) >= _FEWEST_ANSWERS))
    asks = {ask for joint in joints for ask in asks_of_joint[joint]}
    for phrase, others in phrases.exchanges.items():
        if phrase.place == "end" and (phrase.text in asks or asks & set(others)):
            asks |= {text for text in (phrase.text, *others) if len(text) >= _FEWEST_ASK_CHARS}
    book = JoinBook(joints, frozenset(asks), most_codes=max(map(len, answers), default=1))
    by_head: dict[str, list[tuple[str, Codes]]] = defaultdict(list)
    for core, codes in cores.items():
        cut = book.cut(core)
        # What is joined already is not joined again.
        if cut is not None and not any(joint.strip() and joint in cut[0] for joint in joints):
            by_head[cut[0]].append((cut[1], codes))
    groups = {head: tuple(found) for head, found in by_head.items() if len(found) > 1}
    return replace(book, by_head=groups)


def _joints_of(core: str, codes: frozenset[str], cores: Mapping[str, Codes]) -> set[tuple[str, str, str]]:
    """Returns the (joint, first ask, second ask) that make a core of two others with its codes between them."""
    found: set[tuple[str, str, str]] = set()
    if len(codes) < 2:
        return found
    for end in range(_FEWEST_HEAD_CHARS + _FEWEST_ASK_CHARS, len(core) - _FEWEST_ASK_CHARS):
        first = cores.get(core[:end])
        if first is None or not set(first) < codes:
            continue
        rest = core[end:]
        for length in range(1, min(_MOST_JOINT_CHARS, len(rest) - _FEWEST_ASK_CHARS) + 1):
            other = rest[length:]
            for head in range(_FEWEST_HEAD_CHARS, end - _FEWEST_ASK_CHARS + 1):
                second = cores.get(core[:head] + other)
                if second is not None and set(second) | set(first) == codes and not set(second) & set(first):
                    found.add((rest[:length], core[head:end], other))
    return found
