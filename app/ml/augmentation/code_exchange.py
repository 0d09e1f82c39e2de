"""Codes that stand for others in one prompt, so that reading the prompt is the only way to its answer.

Where few rows are repeated often, they are remembered, and nothing makes a model read the training questions that its prompt
shows. With the codes of a prompt and of its answer exchanged for others, throughout, memory is wrong and the prompt is right.
What is learnt so, reading, serves the prompts whose codes are as they are (symbol tuning, arXiv 2305.08298).
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from app.ml.codes import shape_of
from app.ml.prompting import SolvedQuestion

_FEWEST_OF_A_SHAPE = 4


@dataclass(frozen=True)
class CodeExchange:
    """Which codes may stand for each other: those of one shape, and those of rare shapes among themselves."""

    groups: Sequence[Sequence[str]]
    group_of: Mapping[str, int]
    """Every code's place in `groups`."""

    @classmethod
    def of(cls, codes: Iterable[str]) -> "CodeExchange":
        """Groups a vocabulary's codes."""
        by_shape: dict[str, list[str]] = defaultdict(list)
        for code in dict.fromkeys(codes):
            by_shape[shape_of(code)].append(code)
        rare = [code for found in by_shape.values() if len(found) < _FEWEST_OF_A_SHAPE for code in found]
        groups = [rare, *(found for found in by_shape.values() if len(found) >= _FEWEST_OF_A_SHAPE)]
        return cls(groups, {code: number for number, found in enumerate(groups) for code in found})

    def exchanged(
        self, question: str, codes: Sequence[str], shown: Sequence[SolvedQuestion], chooser: random.Random
    ) -> tuple[list[SolvedQuestion], tuple[str, ...]] | None:
        """Returns what a prompt shows and the codes of its answer, with each code exchanged for another throughout.

        None where the answer could not be read off the prompt: one of its codes is not shown. A code that a question speaks of,
        as of a price, stays what it is.
        """
        held = dict.fromkeys(chain.from_iterable(solved.codes for solved in shown))
        if not set(codes) <= held.keys():
            return None
        texts = [question, *(solved.question for solved in shown)]
        drawn = self._draw(held, {code for code in held if any(code in text for text in texts)}, chooser)
        return (
            [replace(solved, codes=tuple(drawn.get(code, code) for code in solved.codes)) for solved in shown],
            tuple(drawn.get(code, code) for code in codes),
        )

    def _draw(self, held: Iterable[str], kept: set[str], chooser: random.Random) -> dict[str, str]:
        of_group: dict[int, list[str]] = defaultdict(list)
        for code in held:
            if code in self.group_of and code not in kept:
                of_group[self.group_of[code]].append(code)
        drawn: dict[str, str] = {}
        for number, mine in of_group.items():
            # What stays stands for itself, and for nothing else.
            free = [code for code in self.groups[number] if code not in kept]
            drawn.update(zip(mine, chooser.sample(free, len(mine)), strict=True))
        return drawn
