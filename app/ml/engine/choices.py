"""Where an answer was a choice: the tokens among which `closed` answering would have decided at each of its places.

Tokens that the grammar forces carry no choice and are left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from app.ml.codes import AnswerGrammar, AnswerState
from app.ml.errors import NothingToTrain


@dataclass(frozen=True)
class AnswerChoices:
    """The choices of one answer, in order."""

    places: tuple[int, ...]
    """Which of the answer's tokens they are"""
    labels: tuple[int, ...]
    """The column of the token that was chosen"""
    menus: tuple[int, ...]
    """The number of the set of tokens that were allowed"""


class ChoiceTable:
    """The choices of every answer that a grammar can say; what was asked once is kept.

    Tokens are named by their column: their place in `tokens`.
    """

    def __init__(self, grammar: AnswerGrammar) -> None:
        """Raises:
        NothingToTrain: the grammar can say but one answer.
        """
        self._grammar = grammar
        self.tokens = tuple(sorted(set(grammar.edge_token)))
        """The C tokens that are ever chosen among others or forced, ascending."""
        self._column_of = {token: column for column, token in enumerate(self.tokens)}
        starts = grammar.edge_start
        self._spans = [
            (min(grammar.edge_low[start:stop], default=0), max(grammar.edge_high[start:stop], default=0))
            for start, stop in pairwise(starts)
        ]
        self._menu_of_state: dict[tuple[int, frozenset[int], bool], int] = {}
        self._menu_of_columns: dict[bytes, int] = {}
        self._bits: list[NDArray[np.uint8]] = []
        self._choices: dict[tuple[int, ...], AnswerChoices | None] = {}
        self.example = tuple(grammar.encode_answer(grammar.vocabulary.codes[:1]))
        """Any answer that the grammar can say."""
        if not self.of(self.example).places:
            raise NothingToTrain(
                "All rows have the same code: there is no choice to learn. Set loss_over to vocabulary.", param="loss_over"
            )

    def find(self, answer: tuple[int, ...]) -> AnswerChoices | None:
        """Returns the choices of an answer's tokens; None where the grammar cannot say it."""
        if answer not in self._choices:
            self._choices[answer] = self._walk(answer)
        return self._choices[answer]

    def of(self, answer: tuple[int, ...]) -> AnswerChoices:
        """Returns the choices of an answer's tokens.

        Raises:
            ValueError: the grammar cannot say it.
        """
        found = self.find(answer)
        if found is None:
            raise ValueError("the grammar cannot say this answer")
        return found

    def allowed(self, menus: Sequence[int]) -> torch.Tensor:
        """Returns `[S, C]` bool: the columns of each menu."""
        bits = np.stack([self._bits[menu] for menu in menus]) if menus else np.zeros((0, 0), np.uint8)
        columns = np.unpackbits(bits, axis=1, count=len(self.tokens)) if menus else np.zeros((0, len(self.tokens)), np.uint8)
        return torch.from_numpy(columns).view(torch.bool)

    def _walk(self, answer: Iterable[int]) -> AnswerChoices | None:
        grammar, state = self._grammar, self._grammar.initial
        places: list[int] = []
        labels: list[int] = []
        menus: list[int] = []
        for place, token in enumerate(answer):
            if not state.separator_left:
                edge = grammar.find_edge(state, token)
                if edge is None:
                    return None
                menu = self._menu(state)
                if menu >= 0:
                    places.append(place)
                    labels.append(self._column_of[token])
                    menus.append(menu)
                state = grammar.follow(state, edge)
            elif token == state.separator_left[0]:
                state = grammar.advance(state, token)
            else:
                return None
        return AnswerChoices(tuple(places), tuple(labels), tuple(menus)) if state.ended else None

    def _menu(self, state: AnswerState) -> int:
        """Returns the number of what is allowed in a state; -1 where that is one token alone."""
        low, high = self._spans[state.node]
        key = state.node, frozenset(rank for rank in state.used if low <= rank < high), self._grammar.may_go_on(state)
        if key not in self._menu_of_state:
            edges = self._grammar.edges(state)
            number = -1
            if len(edges) > 1:
                is_allowed = np.zeros(len(self.tokens), np.uint8)
                is_allowed[[self._column_of[self._grammar.edge_token[edge]] for edge in edges]] = 1
                bits = np.packbits(is_allowed)
                number = self._menu_of_columns.setdefault(bits.tobytes(), len(self._bits))
                if number == len(self._bits):
                    self._bits.append(bits)
            self._menu_of_state[key] = number
        return self._menu_of_state[key]
