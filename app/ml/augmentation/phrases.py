"""Phrases that customers use in each other's place, found in the training rows alone.

Two questions with the same answer that differ in one stretch say that the stretches may stand for each other; two that
differ in the same stretches and have different answers say that they may not. A stretch may be a greeting at the start, a
particle at the end, another way to ask, or another way to name a thing: what decides the codes never passes, because there
the second kind of pair turns up. Numbers are kept: both stretches must hold the same ones.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.ml.even_places import even_places

Place = Literal["start", "inside", "end"]

MAX_MINED_ROWS = 5_000
MAX_EXCHANGES = 4_000
_MAX_QUESTION_CHARS = 80
_MAX_PHRASE_CHARS = 12
_PARTNERS = 24
_FEWEST_ANSWERS = 3
_MOST_AGAINST = 0.1
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Phrase:
    """A stretch of a question."""

    place: Place
    text: str
    """Empty at the start or the end: nothing stands there."""


@dataclass(frozen=True)
class PhraseBook:
    """What may stand at a question's start and end, and for each phrase of what is between them the texts in its place."""

    starts: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    exchanges: Mapping[Phrase, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts) + len(self.ends) + sum(map(len, self.exchanges.values()))

    def parts(self, question: str) -> tuple[str, str, str]:
        """Returns a question's start, core and end; the core is never empty."""
        core = question
        while start := max(
            (text for text in self.starts if core.startswith(text) and len(text) < len(core)), key=len, default=""
        ):
            core = core[len(start) :]
        before = question[: len(question) - len(core)]
        while end := max((text for text in self.ends if core.endswith(text) and len(text) < len(core)), key=len, default=""):
            core = core[: len(core) - len(end)]
        return before, core, question[len(before) + len(core) :]

    def core(self, question: str) -> str:
        """Returns a question without its start and end."""
        return self.parts(question)[1] if self.starts or self.ends else question

    @property
    def affixes(self) -> "PhraseBook":
        """The starts and ends alone."""
        return PhraseBook(self.starts, self.ends)

    def exchanged(self, question: str, chooser: random.Random) -> str:
        """Returns a question with another start or end, or a phrase of its core exchanged; itself where nothing is known."""
        start, core, end = self.parts(question)
        found = list(self._cuts(core))
        kinds = [*["core"] * (2 if found else 0), *["start"] * bool(self.starts), *["end"] * bool(self.ends)]
        if not kinds:
            return question
        match chooser.choice(kinds):
            case "core":
                before, phrase, after = chooser.choice(found)
                core = before + chooser.choice(self.exchanges[phrase]) + after
            case "start":
                start = chooser.choice(("", *self.starts))
            case "end":
                end = chooser.choice(("", *self.ends))
        return start + core + end

    def _cuts(self, core: str) -> Iterable[tuple[str, Phrase, str]]:
        for phrase in self.exchanges:
            # Hardly one of hundreds is there, and a call for each would take longer than all else of a row.
            if phrase.text in core and (cut := find_cut(core, phrase)) is not None:
                yield cut[0], phrase, cut[1]


def find_cut(question: str, phrase: Phrase) -> tuple[str, str] | None:
    """Returns what stands before and after a phrase; None where the question lacks it, or is nothing else."""
    text = phrase.text
    if len(text) >= len(question):
        return None
    if phrase.place == "start":
        is_there = question.startswith(text) and not _splits_word(question, len(text))
        return ("", question[len(text) :]) if is_there else None
    if phrase.place == "end":
        rest = len(question) - len(text)
        return (question[:rest], "") if question.endswith(text) and not _splits_word(question, rest) else None
    at = question.find(text, 1)
    if at < 0 or at + len(text) >= len(question) or _splits_word(question, at) or _splits_word(question, at + len(text)):
        return None
    return question[:at], question[at + len(text) :]


def _splits_word(text: str, at: int) -> bool:
    """Says whether a cut before a place would go through a word or a number of the Latin script."""
    return 0 < at < len(text) and all(char.isascii() and char.isalnum() for char in text[at - 1 : at + 1])


def mined_places(rows: int) -> list[int]:
    """Returns which of so many rows are looked at: all, or 5,000 evenly spread ones."""
    return even_places(rows, MAX_MINED_ROWS)


def mine_phrases(questions: Sequence[str], answers: Sequence[Sequence[str]], *, seed: int = 0) -> PhraseBook:
    """Finds exchangeable phrases of bare questions; of many rows 5,000 evenly spread ones are looked at.

    An exchange needs rows of three different answers for it, and at most a tenth as many pairs of rows against it. What may
    stand at the start or the end, or not, is found first: without it questions differ in one stretch far more often.
    """
    places = mined_places(len(questions))
    rows = [(questions[place], frozenset(answers[place])) for place in places if len(questions[place]) <= _MAX_QUESTION_CHARS]
    said = [one for one in _exchanges(rows, seed) if one[0] != "inside" and one[1]]
    optional = {(place, text) for place, text, other in said if not other}
    # What stands in an optional phrase's place is optional itself.
    optional |= {(place, text) for place, text, other in said if (place, other) in optional}
    starts, ends = (tuple(sorted(text for place, text in optional if place == kind)) for kind in ("start", "end"))
    affixes = PhraseBook(starts, ends)
    cores = [(affixes.parts(question)[1], answer) for question, answer in rows]
    exchanges: dict[Phrase, list[str]] = defaultdict(list)
    for place, text, other in _exchanges(list(dict.fromkeys(cores)), seed):
        if text and (other or place == "inside"):
            exchanges[Phrase(place, text)].append(other)
    return PhraseBook(starts, ends, {phrase: tuple(others) for phrase, others in exchanges.items()})


def _exchanges(rows: Sequence[tuple[str, frozenset[str]]], seed: int) -> "list[_Exchange]":
    """Returns at most 4,000 exchanges, those of most answers first."""
    kept = _without_contradictions(rows, _candidates(rows, random.Random(seed)))
    return sorted(kept, key=lambda one: (-kept[one], one))[:MAX_EXCHANGES]


def differing_phrase(one: str, other: str) -> tuple[Place, str, str] | None:
    """Returns where two texts differ and in what; None where more than 12 characters differ, or two thirds of a text."""
    shortest = min(len(one), len(other))
    start = 0
    while start < shortest and one[start] == other[start]:
        start += 1
    end = 0
    while end < shortest - start and one[-1 - end] == other[-1 - end]:
        end += 1
    # Whole words alone: "what is" and "what's" differ in " is" and "'s".
    while start and (_splits_word(one, start) or _splits_word(other, start)):
        start -= 1
    while end and (_splits_word(one, len(one) - end) or _splits_word(other, len(other) - end)):
        end -= 1
    mine, theirs = one[start : len(one) - end], other[start : len(other) - end]
    if max(len(mine), len(theirs)) > _MAX_PHRASE_CHARS or 3 * (start + end) < shortest or one == other:
        return None
    if start == 0:
        return "start", mine, theirs
    if end == 0:
        return "end", mine, theirs
    return "inside", mine, theirs


_Exchange = tuple[Place, str, str]


def _candidates(rows: Sequence[tuple[str, frozenset[str]]], chooser: random.Random) -> dict[_Exchange, int]:
    """Returns exchanges that rows of several answers speak for, each with the number of these answers."""
    by_answer: dict[frozenset[str], list[str]] = defaultdict(list)
    for question, answer in rows:
        by_answer[answer].append(question)
    speakers: dict[_Exchange, set[frozenset[str]]] = defaultdict(set)
    for answer, group in by_answer.items():
        for question in group:
            for other in chooser.sample(group, min(_PARTNERS, len(group))):
                found = differing_phrase(question, other)
                if found is None:
                    continue
                place, mine, theirs = found
                if _DIGITS.findall(mine) != _DIGITS.findall(theirs) or (place == "inside" and not mine):
                    continue
                speakers[place, mine, theirs].add(answer)
    return {exchange: len(found) for exchange, found in speakers.items() if len(found) >= _FEWEST_ANSWERS}


def _without_contradictions(
    rows: Sequence[tuple[str, frozenset[str]]], candidates: Mapping[_Exchange, int]
) -> dict[_Exchange, int]:
    """Keeps exchanges that few pairs of rows with different answers speak against."""
    phrases = {Phrase(place, text) for place, mine, theirs in candidates for text in (mine, theirs) if text or place != "inside"}
    frames: dict[tuple[Place, str, str], list[tuple[str, frozenset[str]]]] = defaultdict(list)
    for question, answer in rows:
        for phrase in phrases:
            cut = find_cut(question, phrase)
            if cut is not None:
                frames[phrase.place, *cut].append((phrase.text, answer))
    agreeing: Counter[_Exchange] = Counter()
    against: Counter[_Exchange] = Counter()
    for (place, _, _), said in frames.items():
        for text, answer in said:
            for other, other_answer in said:
                if text != other and (place, text, other) in candidates:
                    (agreeing if answer == other_answer else against)[place, text, other] += 1
    return {
        exchange: count
        for exchange, count in candidates.items()
        if against[exchange] <= _MOST_AGAINST * max(count, agreeing[exchange])
    }
