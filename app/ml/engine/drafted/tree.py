"""The tree of answers that one question's passes explore, as arrays: entry 0 is the last token of what stands in order.

Entry e > 0 has the column `e - 1` behind those tokens, and sees its ancestors' columns and its own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.ml.codes import AnswerState
from app.ml.engine.compiled import compiled
from app.ml.engine.drafted.grammar_arrays import GROW, HIGH_RANK, KIND, LOW_RANK, TARGET, GrammarArrays, Ints, forced_edge
from app.ml.engine.drafted.grammar_arrays import TOKEN as EDGE_TOKEN

MASK_WORDS = 3
MOST_TREE_TOKENS = 64 * MASK_WORDS
"""Entries behind the root that fit into the words of a token's mask."""

# The rows of `Tree.ints`.
TOKEN, EDGE, PARENT, NODE, LEFT, DEPTH, CODES, FORCED, CHOICE = range(9)
NO_EDGE = -1
"""In place of an edge: a further token of the separator, or (as a forced edge) none."""


class Tree:
    """Up to 192 tokens behind a root."""

    __slots__ = ("all_log_p", "best", "best_log_p", "bits", "count", "ints", "is_judged", "said")

    def __init__(self, state: AnswerState, said: Sequence[int], *, most_codes: int) -> None:
        """Holds the root alone, which is always a choice: its state is the model's view of the question.

        `said`: ranks of the root's complete codes, -1 for an open value.
        """
        size = MOST_TREE_TOKENS + 1
        self.ints: Ints = np.empty((9, size), np.int32)
        """[9, entries]: token, edge that led here, parent, node of the trie, tokens of the separator left to write, depth,
        complete codes, forced edge, whether the model has a choice"""
        self.said: Ints = np.empty((size, most_codes + 1), np.int32)
        """[entries, codes]: ranks of the complete codes, -1 for an open value"""
        self.bits = np.zeros((size, MASK_WORDS), np.int64)
        """[entries, 3]: which columns behind the tokens in order it sees"""
        self.is_judged = np.zeros(size, np.bool_)
        self.best = np.empty(size, np.int32)
        """The edge that the model would take"""
        self.best_log_p = np.empty(size, np.float64)
        self.all_log_p: dict[int, dict[int, float]] = {}
        """Log-probability of each open edge, where they are wanted"""
        self.count = 1
        self._set(0, NO_EDGE, NO_EDGE, -1, 0, state, said, None)
        self.ints[CHOICE, 0] = 1

    def append(self, parent: int, edge: int, token: int, state: AnswerState, said: Sequence[int], forced: int | None) -> int:
        """Adds one entry behind another; returns its place."""
        place = self.count
        self._set(place, token, edge, parent, int(self.ints[DEPTH, parent]) + 1, state, said, forced)
        self.bits[place] = self.bits[parent]
        _see_itself(self.bits, place)
        self.count += 1
        return place

    def _set(
        self,
        place: int,
        token: int,
        edge: int,
        parent: int,
        depth: int,
        state: AnswerState,
        said: Sequence[int],
        forced: int | None,
    ) -> None:
        left = len(state.separator_left)
        is_choice = not left and forced is None and not state.ended
        no_choice = NO_EDGE if forced is None else forced
        self.ints[:, place] = (token, edge, parent, state.node, left, depth, len(said), no_choice, is_choice)
        if said:
            self.said[place, : len(said)] = said

    def find(self, parent: int, edge: int) -> int:
        """Returns the entry behind an edge of another, -1 where there is none."""
        return _find(self.ints, self.count, parent, edge)

    def judge(self, places: NDArray[Any], edges: NDArray[Any], log_p: NDArray[Any]) -> None:
        """Notes what the model would take at entries."""
        self.best[places], self.best_log_p[places], self.is_judged[places] = edges, log_p, True


@compiled
def _find(ints: Ints, count: int, parent: int, edge: int) -> int:
    for place in range(parent + 1, count):
        if ints[PARENT, place] == parent and ints[EDGE, place] == edge:
            return place
    return -1


@compiled
def _see_itself(bits: NDArray[np.int64], place: int) -> None:
    bits[place, (place - 1) >> 6] |= np.int64(1) << np.int64((place - 1) & 63)


@compiled
def grow(grammar: GrammarArrays, ints: Ints, said: Ints, bits: NDArray[np.int64], place: int, parent: int, edge: int) -> None:
    """Puts the token behind an open edge that does not end the answer, or the separator's next one, at a place."""
    codes = ints[CODES, parent]
    # Loops: a slice costs a compiled loop more than its elements do.
    for index in range(codes):
        said[place, index] = said[parent, index]
    for word in range(MASK_WORDS):
        bits[place, word] = bits[parent, word]
    _see_itself(bits, place)
    left = 0
    if edge == NO_EDGE:
        left = ints[LEFT, parent] - 1
        token = grammar.separator[len(grammar.separator) - left - 1]
        node = 0
    elif grammar.edges[KIND, edge] == GROW:
        token, node = grammar.edges[EDGE_TOKEN, edge], grammar.edges[TARGET, edge]
    else:
        token, node = grammar.edges[EDGE_TOKEN, edge], 0
        left = len(grammar.separator) - 1
        low = grammar.edges[LOW_RANK, edge]
        said[place, codes] = low if low < grammar.edges[HIGH_RANK, edge] else -1
        codes += 1
    forced = NO_EDGE if left else forced_edge(grammar, node, said[place], codes)
    ints[TOKEN, place], ints[EDGE, place], ints[PARENT, place] = token, edge, parent
    ints[NODE, place], ints[LEFT, place], ints[DEPTH, place] = node, left, ints[DEPTH, parent] + 1
    ints[CODES, place], ints[FORCED, place] = codes, forced
    ints[CHOICE, place] = 1 if left == 0 and forced == NO_EDGE else 0
