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


class Prefixes:
    """Weighted token sequences as a tree: what may follow a prefix, and with which weight."""

    __slots__ = ("after", "weight")

    def __init__(self) -> None:
        """Holds nothing yet."""
        self.weight = 0.0
        self.after: dict[int, Prefixes] = {}

    def add(self, tokens: Sequence[int], weight: float) -> None:
        """Adds one sequence."""
        self.weight += weight
        here = self
        for token in tokens:
            there = here.after.get(token)
            if there is None:
                there = here.after[token] = Prefixes()
            there.weight += weight
            here = there

    def find(self, tokens: Sequence[int]) -> "Prefixes | None":
        """Returns what follows a prefix, or None where no sequence begins so."""
        here: Prefixes | None = self
        for token in tokens:
            if here is None:
                return None
            here = here.after.get(token)
        return here


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
        self._following: dict[int, Prefixes] = {}
        self._goes_on = {code: after.total() / counts[code] for code, after in following.items()}
        for code, after in following.items():
            prefixes = self._following[code] = Prefixes()
            for other, times in after.most_common(_MOST_FOLLOWING):
                prefixes.add(grammar.tokens_of_code[other], times / after.total())

    def find_following(self, code: int) -> Prefixes | None:
        """Returns the codes that follow a code, with weights that sum to 1 at most; None where none ever did."""
        return self._following.get(code)

    def goes_on(self, code: int) -> float:
        """Returns the share of answers that go on behind a code."""
        return self._goes_on.get(code, 0.0)

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
    """What the nearest training questions were answered with."""

    answers: Prefixes
    """Whole answers with their ends; weights sum to 1"""
    codes: Prefixes
    """The codes of those answers, each with the weight of all that hold it"""


def nothing_likely() -> Likely:
    """Returns what is known without an index."""
    return Likely(Prefixes(), Prefixes())


_Speakers = tuple[Prefixes | None, Prefixes | None, Prefixes | None]
"""Who speaks for what follows: whole answers, near codes, codes that follow the one before."""


class _Draft:
    """The most probable nodes below one node, grown best first."""

    def __init__(self, grammar: AnswerGrammar, training: TrainingAnswers, likely: Likely, limits: DraftLimits) -> None:
        self._grammar, self._training, self._likely, self._limits = grammar, training, likely, limits
        self._heap: list[tuple[float, int, Node, int, _Speakers]] = []
        self._serial = 0
        self.added: list[Node] = []

    def grow(self) -> None:
        """Adds nodes until there are enough or none is likely."""
        grammar, most, added = self._grammar, self._limits.tokens, self.added
        while self._heap and len(added) < most:
            chance, _, parent, edge, speakers = heapq.heappop(self._heap)
            node = child_of(parent, edge, grammar)
            codes_before = len(parent.state.codes)
            while not node.state.ended:
                added.append(node)
                after = next_of(node, grammar)
                if after is None or len(added) >= most:
                    break
                speakers = _after(speakers, after.token)
                node = after
            if node.needs_scores:
                if len(node.state.codes) > codes_before and not grammar.depth_at[node.state.node]:
                    speakers = (speakers[0], *self.code_speakers(node))
                self.expand(node, -chance, speakers)

    def code_speakers(self, node: Node) -> tuple[Prefixes | None, Prefixes | None]:
        """Returns who speaks where a code begins."""
        codes = node.state.codes
        following = self._training.find_following(codes[-1]) if codes and codes[-1] >= 0 else None
        return self._likely.codes, following

    def expand(self, node: Node, chance: float, speakers: _Speakers) -> None:
        """Puts a node's likely children into the heap."""
        grammar, least, state = self._grammar, self._limits.least_probability, node.state
        weights: dict[int, float] = {}
        total = _FREQUENCY_WEIGHT
        for speaker, share in zip(speakers, (1.0, _NEAR_CODES_WEIGHT, _FOLLOWING_WEIGHT), strict=True):
            if speaker is not None and speaker.weight:
                total += share * speaker.weight
                for token, there in speaker.after.items():
                    weights[token] = weights.get(token, 0.0) + share * there.weight
        code = grammar.code_at[state.node]
        if code >= 0:
            separator = grammar.separator[0]
            weights[separator] = weights.get(separator, 0.0) + _FOLLOWING_WEIGHT * self._training.goes_on(code)
            total += _FOLLOWING_WEIGHT
        scale = chance / total
        for token, weight in weights.items():
            if scale * weight < least:
                continue
            edge = grammar.find_edge(state, token)
            if edge is not None and grammar.edge_kind[edge] is not EdgeKind.END:
                self._push(scale * weight, node, edge, _after(speakers, token))
        rare = scale * _FREQUENCY_WEIGHT
        if rare < least:
            return
        for edge, share in self._training.frequent_edges(state.node):
            if rare * share < least:
                break
            token = grammar.edge_token[edge]
            if token not in weights and grammar.find_edge(state, token) is not None:
                self._push(rare * share, node, edge, (None, None, None))

    def _push(self, chance: float, node: Node, edge: int, speakers: _Speakers) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (-chance, self._serial, node, edge, speakers))


def _after(speakers: _Speakers, token: int) -> _Speakers:
    answers, codes, following = speakers
    return (
        None if answers is None else answers.after.get(token),
        None if codes is None else codes.after.get(token),
        None if following is None else following.after.get(token),
    )


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
    depth = grammar.depth_at[frontier.state.node]
    own = written[len(written) - depth :]
    codes, following = draft.code_speakers(frontier)
    speakers = (
        likely.answers.find(written),
        None if codes is None else codes.find(own),
        None if following is None else following.find(own),
    )
    draft.expand(frontier, 1.0, speakers)
    draft.grow()
    return draft.added
