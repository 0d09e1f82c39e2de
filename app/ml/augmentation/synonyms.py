"""Words that may stand for each other: a job's own groups, and the lists that come with the product."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

Group = tuple[str, ...]

_LISTS = "app.ml.augmentation.word_lists"
_MOST_AGAINST = 0.1


@dataclass(frozen=True)
class SynonymBook:
    """Which words may stand for which others."""

    others_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Iterable[Sequence[str]]) -> "SynonymBook":
        """Reads groups; a word of several may become a word of any of them."""
        others: dict[str, dict[str, None]] = defaultdict(dict)
        for group in groups:
            for word in group:
                others[word].update(dict.fromkeys(other for other in group if other != word))
        return cls({word: tuple(found) for word, found in others.items() if found})

    def __len__(self) -> int:
        return len(self.others_of)

    def exchanged(self, question: str, chooser: random.Random) -> str:
        """Returns a question with one word exchanged for another of its group; the question itself where it has none."""
        found = words_in(question, self.others_of)
        if not found:
            return question
        word = chooser.choice(found)
        return question.replace(word, chooser.choice(self.others_of[word]), 1)


def words_in(text: str, words: Iterable[str]) -> list[str]:
    """Returns which of some words a text holds; of those that hold each other the longest: 办理 is no 办 with more behind it."""
    found = [word for word in words if word in text]
    return [word for word in found if not any(word != other and word in other for other in found)]


@cache
def read_word_list(name: str) -> tuple[Group, ...]:
    """Returns the groups of a list that comes with the product: a group a line, bars between words, # before explanations."""
    lines = (resources.files(_LISTS) / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split("|")) for line in lines if line and not line.startswith("#"))


def uncontradicted(groups: Sequence[Group], questions: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[Group, ...]:
    """Returns the groups that rows do not speak against: elsewhere, one word in another's place may well ask for another code.

    Rows speak where two questions differ in two words of a group alone. A group goes where more than a tenth of such pairs
    have no code in common; a group of which no pair is found stays.
    """
    number_of = {word: number for number, group in enumerate(groups) for word in group}
    # By group and what stands around the word: each word's codes.
    frames: dict[tuple[int, str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for question, answer in zip(questions, answers, strict=True):
        for word in words_in(question, number_of):
            before, _, after = question.partition(word)
            frames[number_of[word], before, after][word].update(answer)
    pairs, against = [0] * len(groups), [0] * len(groups)
    for (number, _, _), codes_of in frames.items():
        found = list(codes_of.values())
        for place, mine in enumerate(found):
            pairs[number] += place
            against[number] += sum(mine.isdisjoint(theirs) for theirs in found[:place])
    return tuple(group for number, group in enumerate(groups) if against[number] <= _MOST_AGAINST * pairs[number])
