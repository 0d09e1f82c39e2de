"""Which continuations of an answer are worth a place in the next pass: the most probable ones by what training answers say."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from app.ml.codes import AnswerGrammar, EdgeKind
from app.ml.engine.drafted.nodes import Node, child_of, next_of

Candidate = tuple[tuple[int, ...], float]
"""The tokens of a likely answer with its end, and its weight."""

# Weight of the codes' own frequencies beside that of the candidates, whose weights sum to at most 1.
_FREQUENCY_WEIGHT = 0.3
_MOST_FREQUENT = 12


@dataclass(frozen=True)
class DraftLimits:
    """How much a question may draft for one pass."""

    tokens: int
    """Most drafted tokens."""
    least_probability: float
    """What is less likely is not worth its place."""


class Frequencies:
    """How often training answers hold the codes of each range of ranks."""

    def __init__(self, grammar: AnswerGrammar, counts: Sequence[float]) -> None:
        """`counts`: one for each code of the vocabulary."""
        self._grammar = grammar
        total = 0.0
        self._below = [0.0]
        for code in grammar.code_of_rank:
            total += counts[code] + 0.1
            self._below.append(total)
        self._frequent: dict[int, list[tuple[int, float]]] = {}

    def frequent_edges(self, node: int) -> list[tuple[int, float]]:
        """Returns a trie node's most frequent growing edges with their shares, most frequent first."""
        found = self._frequent.get(node)
        if found is None:
            grammar = self._grammar
            masses: list[tuple[float, int]] = []
            whole = 0.0
            for edge in range(grammar.edge_start[node], grammar.edge_start[node + 1]):
                mass = self._below[grammar.edge_high[edge]] - self._below[grammar.edge_low[edge]]
                if grammar.edge_kind[edge] is EdgeKind.GROW:
                    masses.append((mass, edge))
                    whole += mass
                elif grammar.edge_kind[edge] is EdgeKind.END:
                    whole += mass
            masses.sort(reverse=True)
            found = [(edge, mass / whole) for mass, edge in masses[:_MOST_FREQUENT] if mass > 0]
            self._frequent[node] = found
        return found


def draft_below(
    frontier: Node,
    grammar: AnswerGrammar,
    candidates: Sequence[Candidate],
    frequencies: Frequencies,
    limits: DraftLimits,
    written: Sequence[int],
) -> list[Node]:
    """Adds likely nodes below a node that is to be scored and returns them, parents before children.

    `written`: the tokens from the root to the frontier; candidates that began otherwise say nothing.
    """
    done = len(written)
    start = tuple(written)
    alive = [one for one in candidates if len(one[0]) > done and one[0][:done] == start]
    added: list[Node] = []
    heap: list[tuple[float, int, Node, int, list[Candidate], int]] = []
    serial = 0

    def expand(node: Node, probability: float, here: list[Candidate], place: int) -> None:
        nonlocal serial
        by_token: dict[int, list[Candidate]] = {}
        total = _FREQUENCY_WEIGHT
        for one in here:
            total += one[1]
            by_token.setdefault(one[0][place], []).append(one)
        shares = dict(frequencies.frequent_edges(node.state.node))
        for token, through in by_token.items():
            edge = grammar.find_edge(node.state, token)
            if edge is None or grammar.edge_kind[edge] is EdgeKind.END:
                continue
            weight = sum(one[1] for one in through) + _FREQUENCY_WEIGHT * shares.pop(edge, 0.0)
            chance = probability * weight / total
            if chance >= limits.least_probability:
                serial += 1
                heapq.heappush(heap, (-chance, serial, node, edge, through, place + 1))
        for edge, share in shares.items():
            chance = probability * _FREQUENCY_WEIGHT * share / total
            if chance < limits.least_probability:
                break
            if grammar.find_edge(node.state, grammar.edge_token[edge]) is not None:
                serial += 1
                heapq.heappush(heap, (-chance, serial, node, edge, [], place + 1))

    expand(frontier, 1.0, alive, done)
    while heap and len(added) < limits.tokens:
        chance, _, parent, edge, through, place = heapq.heappop(heap)
        node: Node | None = child_of(parent, edge, grammar)
        last = parent
        while node is not None and not node.state.ended and len(added) < limits.tokens:
            added.append(node)
            last = node
            node = next_of(node, grammar)
            if node is not None:
                place += 1
        if last is not parent and last.needs_scores:
            expand(last, -chance, [one for one in through if len(one[0]) > place], place)
    return added
