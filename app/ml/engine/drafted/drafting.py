"""Which continuations of an answer are worth a place in the next pass: the most probable ones by what training answers say.

Five sources speak, each with its weight: whole answers of the nearest training questions, as long as they begin with what is
written; the codes of those answers in whatever order; codes that follow the code before in training answers; codes numbered near
those that are written; and how often each code occurs at all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.ml.engine.compiled import compiled
from app.ml.engine.drafted.grammar_arrays import (
    END,
    GROW_STOP,
    HIGH,
    HIGH_RANK,
    KIND,
    LOW,
    LOW_RANK,
    MOST_EDGES,
    OWN,
    SEPARATE,
    START,
    STOP,
    GrammarArrays,
    Ints,
    is_used_up,
    may_go_on,
)
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
    masses = np.empty(grammar.limits[MOST_EDGES])
    size = _expand(grammar, training, likely, ints, said, frontier, 1.0, least, masses, chances, places, edges, 0)
    while size and count < stop:
        chance, parent, edge = chances[0], places[0], edges[0]
        size = _pop(chances, places, edges, size)
        grow(grammar, ints, said, bits, count, parent, edge)
        count += 1
        while count < stop:
            last = count - 1
            edge = ints[FORCED, last]
            if ints[LEFT, last] == 0 and (edge == NO_EDGE or grammar.edges[KIND, edge] == END):
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
    nodes, edges_of = grammar.nodes, grammar.edges
    first, stop, grow_stop = nodes[START, node], nodes[STOP, node], nodes[GROW_STOP, node]
    low, high, own = nodes[LOW, node], nodes[HIGH, node], nodes[OWN, node]
    masses[: stop - first] = 0.0
    separate = -1
    total = _FREQUENCY_WEIGHT
    if own >= 0:
        separate = stop - 2
        masses[separate - first] += _FOLLOWING_WEIGHT * training.goes_on[own]
        total += _FOLLOWING_WEIGHT
    starts, answers, weights = likely.starts, likely.codes, likely.weights
    for answer in range(len(weights)):
        begin, length = starts[answer], starts[answer + 1] - starts[answer]
        if length <= codes:
            continue
        rank = answers[begin + codes]
        if rank < low or rank >= high or not _begins(answers, begin, own_said, codes):
            continue
        total += weights[answer]
        if rank != own:
            masses[_edge_towards(edges_of, first, grow_stop, rank) - first] += weights[answer]
        elif length > codes + 1:
            masses[separate - first] += weights[answer]
    # The other sources are lists of codes: the near ones, those that follow, and those beside each series' last one.
    for source in range(-2, codes):
        if source == -2:
            ranks, shares, begin, end, share = likely.near, likely.near_weights, 0, len(likely.near), _NEAR_CODES_WEIGHT
        elif source == -1:
            ranks, shares, share = training.following, training.following_weight, _FOLLOWING_WEIGHT
            if codes == 0 or own_said[codes - 1] < 0:
                continue
            begin, end = training.following_start[own_said[codes - 1]], training.following_start[own_said[codes - 1] + 1]
        else:
            ranks, shares, share = training.beside, training.beside_weight, _BESIDE_WEIGHT
            if own_said[source] < 0 or not _is_last_of_series(training.series, own_said, source, codes):
                continue
            begin, end = training.beside_start[own_said[source]], training.beside_start[own_said[source] + 1]
        for index in range(begin, end):
            rank = ranks[index]
            if rank < low or rank >= high or _is_said(own_said, codes, rank):
                continue
            total += share * shares[index]
            if rank != own:
                masses[_edge_towards(edges_of, first, grow_stop, rank) - first] += share * shares[index]
    scale = chance / total
    rare = scale * _FREQUENCY_WEIGHT
    below = training.counted_below
    whole = below[high] - below[low]
    may_separate = may_go_on(grammar, codes)
    for edge in range(first, stop):
        kind, edge_low, edge_high = edges_of[KIND, edge], edges_of[LOW_RANK, edge], edges_of[HIGH_RANK, edge]
        if kind == END or (kind == SEPARATE and not may_separate):
            continue
        probability = scale * masses[edge - first]
        if probability == 0.0 and kind != SEPARATE and rare >= least and whole > 0.0:
            probability = rare * (below[edge_high] - below[edge_low]) / whole
        if probability >= least and size < len(chances) and not is_used_up(edge_low, edge_high, own_said, codes):
            size = _push(chances, places, edges, size, probability, place, edge)
    return size


@compiled
def _begins(answers: Ints, begin: int, said: Ints, codes: int) -> bool:
    same = 0
    while same < codes and answers[begin + same] == said[same]:
        same += 1
    return same == codes


@compiled
def _is_said(said: Ints, codes: int, rank: int) -> bool:
    place = 0
    while place < codes and said[place] != rank:
        place += 1
    return place < codes


@compiled
def _edge_towards(edges: Ints, first: int, stop: int, rank: int) -> int:
    """Returns which of a node's edges within the trie leads to a code behind it."""
    while stop - first > 1:
        middle = (first + stop) // 2
        if edges[LOW_RANK, middle] <= rank:
            first = middle
        else:
            stop = middle
    return first


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
