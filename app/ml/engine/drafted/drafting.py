"""Which continuations of an answer are worth a place in the next pass: the most probable ones by what training answers say.

Four sources speak, each with its weight: whole answers of the nearest training questions, as long as they begin with what is
written; codes that follow the code before in training answers; the codes of the nearest questions in whatever order; and how
often each code occurs at all.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.ml.codes import AnswerGrammar, EdgeKind
from app.ml.engine.drafted.nodes import Node, child_of, next_of

Candidate = tuple[tuple[int, ...], float]
"""Tokens, and their weight: of a likely answer with its end, or of a likely code."""

# Weights beside those of the nearest answers, which sum to 1. Chosen on a split of the telecom training rows.
_FOLLOWING_WEIGHT = 0.25
_NEAR_CODES_WEIGHT = 0.25
_FREQUENCY_WEIGHT = 0.05
_MOST_FREQUENT = 12
_MOST_FOLLOWING = 12


@dataclass(frozen=True)
class DraftLimits:
    """How much a question may draft for one pass."""

    tokens: int
    """Most drafted tokens."""
    least_probability: float
    """What is less likely is not worth its place."""


class TrainingAnswers:
    """How often training answers hold each code, and which code follows which."""

    def __init__(self, grammar: AnswerGrammar, answers: Iterable[tuple[Sequence[int], int]]) -> None:
        """`answers`: codes by their place in the vocabulary, and how often."""
        self._grammar = grammar
        counts = [0.1] * len(grammar.tokens_of_code)
        following: dict[int, Counter[int]] = {}
        for codes, count in answers:
            for place, code in enumerate(codes):
                counts[code] += count
                if place:
                    following.setdefault(codes[place - 1], Counter())[code] += count
        self._below = [0.0]
        for code in grammar.code_of_rank:
            self._below.append(self._below[-1] + counts[code])
        self._frequent: dict[int, list[tuple[int, float]]] = {}
        self._following = {
            code: (
                [(grammar.tokens_of_code[other], times / after.total()) for other, times in after.most_common(_MOST_FOLLOWING)],
                after.total() / counts[code],
            )
            for code, after in following.items()
        }

    def following(self, code: int) -> tuple[list[Candidate], float]:
        """Returns the codes that follow a code, with shares, and the share of answers that go on behind it."""
        return self._following.get(code, ([], 0.0))

    def frequent_edges(self, node: int) -> list[tuple[int, float]]:
        """Returns a trie node's most frequent growing edges with their shares, most frequent first."""
        found = self._frequent.get(node)
        if found is None:
            grammar = self._grammar
            masses: list[tuple[float, int]] = []
            whole = 1e-9
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


@dataclass(frozen=True)
class Likely:
    """What is likely for one question."""

    answers: Sequence[Candidate]
    codes: Sequence[Candidate]
    """The codes of those answers, each with the weight of all that hold it."""


@dataclass
class _Branch:
    """A node to be drafted, and who speaks for it."""

    parent: Node
    edge: int
    answers: list[Candidate]
    place: int
    """How many tokens of `answers` are written once the node is."""
    codes: list[Candidate]
    code_place: int
    """The same of `codes`."""


class _Draft:
    """The most probable nodes below one node, grown best first."""

    def __init__(self, grammar: AnswerGrammar, training: TrainingAnswers, likely: Likely, limits: DraftLimits) -> None:
        self._grammar, self._training, self._likely, self._limits = grammar, training, likely, limits
        self._heap: list[tuple[float, int, _Branch]] = []
        self._serial = 0
        self.added: list[Node] = []

    def grow(self) -> None:
        """Adds nodes until there are enough or none is likely."""
        grammar, most = self._grammar, self._limits.tokens
        while self._heap and len(self.added) < most:
            chance, _, branch = heapq.heappop(self._heap)
            node: Node | None = child_of(branch.parent, branch.edge, grammar)
            last, place, code_place, codes = branch.parent, branch.place, branch.code_place, branch.codes
            has_ended_code = grammar.edge_kind[branch.edge] is not EdgeKind.GROW
            while node is not None and not node.state.ended and len(self.added) < most:
                self.added.append(node)
                last, before = node, node
                node = next_of(node, grammar)
                if node is not None:
                    place, code_place = place + 1, code_place + 1
                    has_ended_code |= len(node.state.codes) > len(before.state.codes)
            if last.needs_scores and last is not branch.parent:
                alive = [one for one in branch.answers if len(one[0]) > place]
                if has_ended_code:
                    codes, code_place = self.codes_behind(last), 0
                self.expand(last, -chance, alive, place, codes, code_place)

    def codes_behind(self, node: Node) -> list[Candidate]:
        """Returns the codes that may begin at a node where no token of a code is written, with weights."""
        codes = [(tokens, weight * _NEAR_CODES_WEIGHT) for tokens, weight in self._likely.codes]
        if node.state.codes and node.state.codes[-1] >= 0:
            following, _ = self._training.following(node.state.codes[-1])
            codes += [(tokens, share * _FOLLOWING_WEIGHT) for tokens, share in following]
        return codes

    def expand(
        self, node: Node, chance: float, answers: list[Candidate], place: int, codes: list[Candidate], code_place: int
    ) -> None:
        """Puts a node's likely children into the heap."""
        grammar, least = self._grammar, self._limits.least_probability
        weights: dict[int, float] = {}
        total = _FREQUENCY_WEIGHT
        for tokens, weight in answers:
            total += weight
            weights[tokens[place]] = weights.get(tokens[place], 0.0) + weight
        for tokens, weight in codes:
            total += weight
            if len(tokens) > code_place:
                weights[tokens[code_place]] = weights.get(tokens[code_place], 0.0) + weight
        code = grammar.code_at[node.state.node]
        if code >= 0:
            share = self._training.following(code)[1]
            separator = grammar.separator[0]
            weights[separator] = weights.get(separator, 0.0) + _FOLLOWING_WEIGHT * share
            total += _FOLLOWING_WEIGHT
        shares = dict(self._training.frequent_edges(node.state.node))
        scale = chance / total
        for token, weight in weights.items():
            edge = grammar.find_edge(node.state, token)
            if edge is None or grammar.edge_kind[edge] is EdgeKind.END:
                continue
            of_edge = scale * (weight + _FREQUENCY_WEIGHT * shares.pop(edge, 0.0))
            if of_edge >= least:
                self._push(
                    of_edge,
                    _Branch(
                        node,
                        edge,
                        [one for one in answers if one[0][place] == token],
                        place + 1,
                        [one for one in codes if len(one[0]) > code_place and one[0][code_place] == token],
                        code_place + 1,
                    ),
                )
        for edge, share in shares.items():
            of_edge = scale * _FREQUENCY_WEIGHT * share
            if of_edge < least:
                break
            if grammar.find_edge(node.state, grammar.edge_token[edge]) is not None:
                self._push(of_edge, _Branch(node, edge, [], place + 1, [], code_place + 1))

    def _push(self, chance: float, branch: _Branch) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (-chance, self._serial, branch))


def draft_below(
    frontier: Node,
    grammar: AnswerGrammar,
    training: TrainingAnswers,
    likely: Likely,
    limits: DraftLimits,
    written: Sequence[int],
) -> list[Node]:
    """Adds likely nodes below a node that is to be scored and returns them, parents before children.

    `written`: the tokens from the answer's beginning to the frontier; answers that begin otherwise say nothing.
    """
    draft = _Draft(grammar, training, likely, limits)
    done, start = len(written), tuple(written)
    answers = [one for one in likely.answers if len(one[0]) > done and one[0][:done] == start]
    depth = grammar.depth_at[frontier.state.node]
    own = start[done - depth :] if depth else ()
    codes = [one for one in draft.codes_behind(frontier) if one[0][:depth] == own]
    draft.expand(frontier, 1.0, answers, done, codes, depth)
    draft.grow()
    return draft.added
