"""An answer grammar as arrays, and the questions that are asked of it most: `app.ml.codes.AnswerGrammar` for compiled loops."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.ml.codes import AnswerGrammar, EdgeKind
from app.ml.engine.compiled import compiled

Ints = NDArray[np.int32]

GROW, SEPARATE, END = int(EdgeKind.GROW), int(EdgeKind.SEPARATE), int(EdgeKind.END)
# A state with more edges than this is not searched for whether all but one are closed.
_FEW_EDGES = 4


class GrammarArrays(NamedTuple):
    """The trie's N nodes and E edges; a code is named by its rank."""

    node_start: Ints
    """[N + 1]: a node's first edge"""
    grow_stop: Ints
    """[N]: behind a node's last edge within the trie"""
    node_low: Ints
    """[N]: the ranks of the codes through a node, from"""
    node_high: Ints
    """[N]: to, exclusive"""
    own_rank: Ints
    """[N]: the code that ends at a node, -1: none"""
    edge_token: Ints
    edge_kind: Ints
    edge_low: Ints
    edge_high: Ints
    edge_target: Ints
    separator: Ints
    """Its tokens"""
    limits: Ints
    """Most codes of an answer, codes in all, whether values outside the vocabulary are allowed"""


def grammar_arrays(grammar: AnswerGrammar) -> GrammarArrays:
    """Copies a grammar into arrays."""
    nodes = len(grammar.edge_start) - 1
    starts = np.array(grammar.edge_start, dtype=np.int32)
    kinds = np.array([int(kind) for kind in grammar.edge_kind], dtype=np.int32)
    lows, highs = np.array(grammar.edge_low, dtype=np.int32), np.array(grammar.edge_high, dtype=np.int32)
    own = np.array([-1 if code < 0 else grammar.rank_of_code[code] for code in grammar.code_at], dtype=np.int32)
    grow_stop, node_low, node_high = starts[:-1].copy(), np.zeros(nodes, np.int32), np.zeros(nodes, np.int32)
    for node in range(nodes):
        edges = range(starts[node], starts[node + 1])
        inside = [edge for edge in edges if kinds[edge] == GROW and lows[edge] < highs[edge]]
        if own[node] >= 0:
            node_low[node], node_high[node] = own[node], own[node] + 1
        if inside:
            grow_stop[node] = inside[-1] + 1
            node_low[node] = own[node] if own[node] >= 0 else lows[inside[0]]
            node_high[node] = highs[inside[-1]]
    return GrammarArrays(
        node_start=starts,
        grow_stop=grow_stop,
        node_low=node_low,
        node_high=node_high,
        own_rank=own,
        edge_token=np.array(grammar.edge_token, dtype=np.int32),
        edge_kind=kinds,
        edge_low=lows,
        edge_high=highs,
        edge_target=np.array(grammar.edge_target, dtype=np.int32),
        separator=np.array(grammar.separator, dtype=np.int32),
        limits=np.array(
            [grammar.vocabulary.max_codes_per_answer, len(grammar.vocabulary.codes), grammar.has_open_values], dtype=np.int32
        ),
    )


def no_grammar() -> GrammarArrays:
    """Returns what stands where nothing is constrained: one node without edges."""
    one, none = np.zeros(1, np.int32), np.zeros(0, np.int32)
    return GrammarArrays(np.zeros(2, np.int32), one, one, one, one - 1, none, none, none, none, none, none, np.zeros(3, np.int32))


@compiled
def may_go_on(grammar: GrammarArrays, codes: int) -> bool:
    """Says whether a further code may follow the one behind `codes` complete ones."""
    more = codes + 1
    return bool(more < grammar.limits[0] and (more < grammar.limits[1] or grammar.limits[2] > 0))


@compiled
def is_open(grammar: GrammarArrays, edge: int, said: Ints, codes: int) -> bool:
    """Says whether an edge may be taken behind the complete codes `said[:codes]` (ranks, -1 for an open value)."""
    if grammar.edge_kind[edge] == SEPARATE and not may_go_on(grammar, codes):
        return False
    low, high = grammar.edge_low[edge], grammar.edge_high[edge]
    if low < high <= low + codes:
        taken = 0
        for place in range(codes):
            if low <= said[place] < high:
                taken += 1
        return bool(taken < high - low)
    return True


@compiled
def forced_edge(grammar: GrammarArrays, node: int, said: Ints, codes: int) -> int:
    """Returns the only edge that may be taken, -1 where there is a choice."""
    start, stop = grammar.node_start[node], grammar.node_start[node + 1]
    if stop - start == 1:
        # From every node that can be reached a path leads to the end.
        return int(start)
    if stop - start > _FEW_EDGES:
        return -1
    found = -1
    for edge in range(start, stop):
        if is_open(grammar, edge, said, codes):
            if found >= 0:
                return -1
            found = edge
    return found
