"""Which continuations of an answer are worth a place in the next pass: the most probable ones by what training answers say.

Five sources speak, each with its weight: whole answers of the nearest training questions, as long as they begin with what is
written; the codes of those answers in whatever order; codes that follow the code before in training answers; codes numbered near
those that are written; and how often each code occurs at all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.ml.engine.compiled import compiled
from app.ml.engine.drafted.grammar_arrays import END, SEPARATE, GrammarArrays, Ints, is_open
from app.ml.engine.drafted.recall import Likely
from app.ml.engine.drafted.successions import Floats, Successions
from app.ml.engine.drafted.tree import CHOICE, CODES, FORCED, LEFT, NO_EDGE, NODE, Tree, grow

# Weights beside those of the nearest answers, which sum to 1. Chosen on a split of the telecom training rows.
_FOLLOWING_WEIGHT = 0.25
_NEAR_CODES_WEIGHT = 0.25
_BESIDE_WEIGHT = 0.5
_FREQUENCY_WEIGHT = 0.05
# What is pushed beyond this is left out: no pass drafts as much.
_HEAP_SIZE = 2048


@dataclass(frozen=True)
class DraftLimits:
    """How much a question may draft for one pass."""

    tokens: int
    """Most drafted tokens."""
    least_probability: float
    """What is less likely is not worth its place."""


def draft_below(
    tree: Tree, frontier: int, grammar: GrammarArrays, training: Successions, likely: Likely, limits: DraftLimits
) -> None:
    """Adds likely entries below one at which the model has a choice, parents before children."""
    tree.count = _draft(
        grammar, training, likely, tree.ints, tree.said, tree.bits, tree.count, frontier, limits.tokens, limits.least_probability
    )


@compiled
def _draft(
    grammar: GrammarArrays,
    training: Successions,
    likely: Likely,
    ints: Ints,
    said: Ints,
    bits: NDArray[np.int64],
    count: int,
    frontier: int,
    most: int,
    least: float,
) -> int:
    """Returns how many entries the tree has then; grown best first."""
    stop = min(count + most, ints.shape[1])
    chances, places, edges = np.empty(_HEAP_SIZE), np.empty(_HEAP_SIZE, np.int32), np.empty(_HEAP_SIZE, np.int32)
    masses = np.zeros(int((grammar.node_start[1:] - grammar.node_start[:-1]).max()))
    size = _expand(grammar, training, likely, ints, said, frontier, 1.0, least, masses, chances, places, edges, 0)
    while size and count < stop:
        chance, parent, edge = chances[0], places[0], edges[0]
        size = _pop(chances, places, edges, size)
        grow(grammar, ints, said, bits, count, parent, edge)
        count += 1
        while count < stop:
            last = count - 1
            edge = ints[FORCED, last]
            if ints[LEFT, last] == 0 and (edge == NO_EDGE or grammar.edge_kind[edge] == END):
                break
            grow(grammar, ints, said, bits, count, last, NO_EDGE if ints[LEFT, last] else edge)
            count += 1
        last = count - 1
        if ints[CHOICE, last] and count < stop:
            size = _expand(grammar, training, likely, ints, said, last, chance, least, masses, chances, places, edges, size)
    return count


@compiled
def _expand(
    grammar: GrammarArrays,
    training: Successions,
    likely: Likely,
    ints: Ints,
    said: Ints,
    place: int,
    chance: float,
    least: float,
    masses: Floats,
    chances: Floats,
    places: Ints,
    edges: Ints,
    size: int,
) -> int:
    """Puts an entry's likely continuations into the heap; returns its size."""
    node, codes, own_said = ints[NODE, place], ints[CODES, place], said[place]
    first, stop = grammar.node_start[node], grammar.node_start[node + 1]
    own = grammar.own_rank[node]
    masses[: stop - first] = 0.0
    separate = -1
    total = _FREQUENCY_WEIGHT
    if own >= 0:
        separate = stop - 2
        masses[separate - first] += _FOLLOWING_WEIGHT * training.goes_on[own]
        total += _FOLLOWING_WEIGHT
    for answer in range(len(likely.weights)):
        begin, length = likely.starts[answer], likely.starts[answer + 1] - likely.starts[answer]
        if length <= codes or not _begins(likely.codes, begin, own_said, codes):
            continue
        edge = _edge_of(grammar, node, likely.codes[begin + codes])
        if edge == NO_EDGE:
            continue
        total += likely.weights[answer]
        if edge < stop:
            masses[edge - first] += likely.weights[answer]
        elif length > codes + 1:
            masses[separate - first] += likely.weights[answer]
    total += _add(grammar, node, own_said, codes, likely.near, likely.near_weights, _NEAR_CODES_WEIGHT, masses)
    if codes and own_said[codes - 1] >= 0:
        before = own_said[codes - 1]
        begin, end = training.following_start[before], training.following_start[before + 1]
        following, weights = training.following[begin:end], training.following_weight[begin:end]
        total += _add(grammar, node, own_said, codes, following, weights, _FOLLOWING_WEIGHT, masses)
    for index in range(codes):
        if own_said[index] >= 0 and _is_last_of_series(training.series, own_said, index, codes):
            begin, end = training.beside_start[own_said[index]], training.beside_start[own_said[index] + 1]
            beside, weights = training.beside[begin:end], training.beside_weight[begin:end]
            total += _add(grammar, node, own_said, codes, beside, weights, _BESIDE_WEIGHT, masses)
    scale = chance / total
    rare = scale * _FREQUENCY_WEIGHT
    below = training.counted_below
    whole = below[grammar.node_high[node]] - below[grammar.node_low[node]]
    for edge in range(first, stop):
        kind = grammar.edge_kind[edge]
        if kind == END:
            continue
        probability = scale * masses[edge - first]
        if probability == 0.0 and kind != SEPARATE and rare >= least and whole > 0.0:
            probability = rare * (below[grammar.edge_high[edge]] - below[grammar.edge_low[edge]]) / whole
        if probability >= least and size < len(chances) and is_open(grammar, edge, own_said, codes):
            size = _push(chances, places, edges, size, probability, place, edge)
    return size


@compiled
def _begins(answer: Ints, begin: int, said: Ints, codes: int) -> bool:
    same = 0
    while same < codes and answer[begin + same] == said[same]:
        same += 1
    return same == codes


@compiled
def _edge_of(grammar: GrammarArrays, node: int, rank: int) -> int:
    """Returns the edge towards a code, the node's last edge + 1 for the code that ends here, -1 if it lies elsewhere."""
    if rank < grammar.node_low[node] or rank >= grammar.node_high[node]:
        return NO_EDGE
    if rank == grammar.own_rank[node]:
        return int(grammar.node_start[node + 1])
    low, high = int(grammar.node_start[node]), int(grammar.grow_stop[node])
    while high - low > 1:
        middle = (low + high) // 2
        if grammar.edge_low[middle] <= rank:
            low = middle
        else:
            high = middle
    return low


@compiled
def _add(
    grammar: GrammarArrays, node: int, said: Ints, codes: int, ranks: Ints, weights: Floats, share: float, masses: Floats
) -> float:
    """Adds codes' weights to the edges towards them; returns the weight of all that lie behind the node."""
    first, stop = grammar.node_start[node], grammar.node_start[node + 1]
    total = 0.0
    for index in range(len(ranks)):
        edge = _edge_of(grammar, node, ranks[index])
        if edge == NO_EDGE:
            continue
        is_said = False
        for place in range(codes):
            is_said |= said[place] == ranks[index]
        if is_said:
            continue
        total += share * weights[index]
        if edge < stop:
            masses[edge - first] += share * weights[index]
    return total


@compiled
def _is_last_of_series(series: Ints, said: Ints, index: int, codes: int) -> bool:
    own = series[said[index]]
    later = index + 1
    while later < codes and not (said[later] >= 0 and series[said[later]] == own):
        later += 1
    return bool(own >= 0 and later == codes)


@compiled
def _push(chances: Floats, places: Ints, edges: Ints, size: int, chance: float, place: int, edge: int) -> int:
    at = size
    while at and chances[(at - 1) // 2] < chance:
        above = (at - 1) // 2
        chances[at], places[at], edges[at] = chances[above], places[above], edges[above]
        at = above
    chances[at], places[at], edges[at] = chance, place, edge
    return size + 1


@compiled
def _pop(chances: Floats, places: Ints, edges: Ints, size: int) -> int:
    size -= 1
    chance, place, edge = chances[size], places[size], edges[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and chances[below + 1] > chances[below]:
            below += 1
        if chances[below] <= chance:
            break
        chances[at], places[at], edges[at] = chances[below], places[below], edges[below]
        at = below
    chances[at], places[at], edges[at] = chance, place, edge
    return size
