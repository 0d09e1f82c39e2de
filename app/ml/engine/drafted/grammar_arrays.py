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


# Few arrays, not one a field: a compiled call passes every array's pointer, shape and strides.
START, STOP, GROW_STOP, LOW, HIGH, OWN = range(6)
TOKEN, KIND, LOW_RANK, HIGH_RANK, TARGET = range(5)
MOST_CODES, CODE_COUNT, HAS_OPEN_VALUES, MOST_EDGES = range(4)


class GrammarArrays(NamedTuple):
    """The trie's N nodes and E edges; a code is named by its rank."""

    nodes: Ints
    """[6, N]: first edge, behind the last one, behind the last one within the trie; ranks of the codes through the node from
    and to, exclusive; the code that ends here, -1: none"""
    edges: Ints
    """[5, E]: token, kind, ranks of the codes behind it from and to, exclusive, node that it leads to"""
    separator: Ints
    """Its tokens"""
    limits: Ints
    """Most codes of an answer, codes in all, whether values outside the vocabulary are allowed, most edges of a node"""


def grammar_arrays(grammar: AnswerGrammar) -> GrammarArrays:
    """Copies a grammar into arrays."""
    starts = np.array(grammar.edge_start, dtype=np.int32)
    kinds = [int(kind) for kind in grammar.edge_kind]
    lows, highs = grammar.edge_low, grammar.edge_high
    nodes = np.zeros((6, len(starts) - 1), dtype=np.int32)
    nodes[START], nodes[STOP], nodes[GROW_STOP] = starts[:-1], starts[1:], starts[:-1]
    nodes[OWN] = [-1 if code < 0 else grammar.rank_of_code[code] for code in grammar.code_at]
    for node in range(nodes.shape[1]):
        own = nodes[OWN, node]
        if own >= 0:
            nodes[LOW, node], nodes[HIGH, node] = own, own + 1
        inside = [edge for edge in range(starts[node], starts[node + 1]) if kinds[edge] == GROW and lows[edge] < highs[edge]]
        if inside:
            nodes[GROW_STOP, node] = inside[-1] + 1
            nodes[LOW, node] = own if own >= 0 else lows[inside[0]]
            nodes[HIGH, node] = highs[inside[-1]]
    vocabulary = grammar.vocabulary
    most_edges = int((starts[1:] - starts[:-1]).max())
    limits = [vocabulary.max_codes_per_answer, len(vocabulary.codes), grammar.has_open_values, most_edges]
    return GrammarArrays(
        nodes,
        np.array([grammar.edge_token, kinds, lows, highs, grammar.edge_target], dtype=np.int32),
        np.array(grammar.separator, dtype=np.int32),
        np.array(limits, dtype=np.int32),
    )


def no_grammar() -> GrammarArrays:
    """Returns what stands where nothing is constrained: one node without edges."""
    nodes = np.zeros((6, 1), np.int32)
    return GrammarArrays(nodes, np.zeros((5, 0), np.int32), np.zeros(0, np.int32), np.zeros(4, np.int32))


@compiled
def may_go_on(grammar: GrammarArrays, codes: int) -> bool:
    """Says whether a further code may follow the one behind `codes` complete ones."""
    more = codes + 1
    return bool(more < grammar.limits[MOST_CODES] and (more < grammar.limits[CODE_COUNT] or grammar.limits[HAS_OPEN_VALUES] > 0))


@compiled
def is_open(grammar: GrammarArrays, edge: int, said: Ints, codes: int) -> bool:
    """Says whether an edge may be taken behind the complete codes `said[:codes]` (ranks, -1 for an open value)."""
    if grammar.edges[KIND, edge] == SEPARATE and not may_go_on(grammar, codes):
        return False
    return not is_used_up(grammar.edges[LOW_RANK, edge], grammar.edges[HIGH_RANK, edge], said, codes)


@compiled
def is_used_up(low: int, high: int, said: Ints, codes: int) -> bool:
    """Says whether all codes of a range, if it has any, are among `said[:codes]`."""
    if not low < high <= low + codes:
        return False
    taken = 0
    for place in range(codes):
        if low <= said[place] < high:
            taken += 1
    return bool(taken == high - low)


@compiled
def forced_edge(grammar: GrammarArrays, node: int, said: Ints, codes: int) -> int:
    """Returns the only edge that may be taken, -1 where there is a choice."""
    start, stop = grammar.nodes[START, node], grammar.nodes[STOP, node]
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
