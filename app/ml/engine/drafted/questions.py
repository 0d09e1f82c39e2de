"""One question on its way through the passes: its prompt, the tree behind it, the walk along the model's choices."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from app.ml.codes import AnswerGrammar
from app.ml.engine.code_shares import CodeShares
from app.ml.engine.decoding import DecodedAnswer
from app.ml.engine.drafted.drafting import DraftLimits, draft_below
from app.ml.engine.drafted.feeding import Feeding
from app.ml.engine.drafted.grammar_arrays import HIGH_RANK, LOW_RANK, GrammarArrays
from app.ml.engine.drafted.nodes import NOT_FED, Node, child_of, next_of, release
from app.ml.engine.drafted.recall import Likely
from app.ml.engine.drafted.rows import Row
from app.ml.engine.drafted.successions import Successions
from app.ml.engine.drafted.tree import MOST_TREE_TOKENS, NO_EDGE, Tree

_LEAST_ROOM = 24


@dataclass(frozen=True)
class AnswerPlan:
    """What a question needs to know of its adapter."""

    grammar: AnswerGrammar
    arrays: GrammarArrays
    """The grammar's"""
    decode: Callable[[Sequence[int]], str]
    """Text of an open value's tokens."""
    likely: Likely
    training: Successions
    inverse_temperature: float
    smoothing: float
    """Label smoothing that the adapter was trained with"""
    beam_width: int
    """1: greedy alone."""
    follow: tuple[str, ...] | None
    """A recorded answer that the walk takes instead of the model's choices; None: the model's."""
    shares: CodeShares | None = None
    """What a classifier says of the question"""
    keeps_steps: bool = False


@dataclass
class _Hypothesis:
    node: Node
    log_p: float
    code_logs: tuple[float, ...] = ()
    open_log: float = 0.0


@dataclass(eq=False)
class Question:
    """Greedy first; then, where alternatives are wanted, a beam over the same tree."""

    prompt: list[int]
    plan: AnswerPlan
    passes: int = 0
    row: Row | None = None
    steps: list[tuple[tuple[float, ...], int]] = field(default_factory=list)
    """Log-probabilities at each choice and which was taken, where the plan keeps them."""
    best: DecodedAnswer | None = None
    best_passes: int = 0
    """Passes that the best answer took, those of the beam not counted."""
    hidden: torch.Tensor | None = None
    """[D] fp32: the model's view of the question, where the plan keeps steps"""
    beam: list[DecodedAnswer] = field(default_factory=list)

    novelty: float | None = None
    """How unlike the training questions it is, where the adapter can tell"""

    def __post_init__(self) -> None:
        """Stands before the first token of the answer."""
        self._linear = self.prompt
        self._fed = 0
        self._settled: list[int] = []
        self._code_logs: tuple[float, ...] = ()
        self._open_log = 0.0
        grammar = self.plan.grammar
        self._route = None if self.plan.follow is None else grammar.encode_answer(self.plan.follow)
        self._begin_tree(Node(self.prompt[-1], grammar.initial, None, NO_EDGE, None))
        self._hypotheses: list[_Hypothesis] = []
        self._finished: list[_Hypothesis] = []
        self._is_done = False

    @property
    def wants_all_scores(self) -> bool:
        """Says whether all open edges' log-probabilities are needed, not the best one's alone."""
        return self.plan.beam_width > 1 or self.plan.keeps_steps or self.plan.shares is not None

    @property
    def wants_hidden(self) -> bool:
        """Says whether the root's state is needed."""
        return self.plan.keeps_steps and self.hidden is None

    @property
    def linear(self) -> list[int]:
        """The tokens that stand in order at the row's first columns: the prompt, and what a long answer has settled."""
        return self._linear

    @property
    def tree(self) -> Tree:
        """What its passes explore."""
        return self._tree

    @property
    def tokens_left(self) -> int:
        """How many tokens of the prompt no pass has read."""
        return len(self._linear) - self._fed

    @property
    def columns_held(self) -> int:
        """How many of its row's columns hold something that it may look at, those of the pass being planned included."""
        return len(self._linear) + self._tree.count - 1 if self._fed == len(self._linear) else self._fed

    def sit(self, row: Row) -> None:
        """Takes a row; what it holds of the prompt is not read again."""
        self.row = row
        self._fed = len(row.tokens)

    @property
    def room_wanted(self) -> int:
        """Places behind the linear tokens that make a row worth taking."""
        return min(_LEAST_ROOM + self.plan.grammar.max_tokens, 2 * _LEAST_ROOM) + (
            3 * _LEAST_ROOM if self.plan.beam_width > 1 else 0
        )

    def feed(self, limits: DraftLimits, *, most_linear: int) -> Feeding | None:
        """Returns what the next pass shall read of it, or None where its row is too short: take a wider one, or stop.

        A prompt that is longer than `most_linear` is read in pieces, so that others need not wait for it.
        """
        assert self.row is not None
        tree, is_through = self._tree, self._fed == len(self._linear)
        if self.tokens_left > most_linear:
            first = self._fed
            self._fed += most_linear
            return Feeding(self, first, self._fed, tree.count, tree.count, has_root=False)
        begin = tree.count
        if self.best is None:
            if not self._place_greedily(limits):
                return None
        else:
            nodes = self._chains([one.node for one in self._missing()])
            if len(nodes) > self._room():
                # The beam has outgrown the row: what it has finished stands.
                self._is_done = True
                return Feeding(self, self._fed, self._fed, begin, begin, has_root=False)
            self._place(nodes)
        first, self._fed = self._fed, len(self._linear)
        return Feeding(self, first, self._fed, begin, tree.count, has_root=not is_through)

    def settle(self) -> bool:
        """Makes what the walk has written part of the linear tokens and starts a new tree there; False if nothing was written."""
        if not self._written or self.best is not None:
            return False
        self._linear = [*self._linear, *self._written]
        root = Node(self._linear[-1], self._cursor.state, None, NO_EDGE, None)
        self._settled = [*self._settled, *self._written]
        release(self._root)
        self._begin_tree(root)
        return True

    def walk(self) -> bool:
        """Follows the model's choices as far as they are known; returns whether the question is answered."""
        if self.best is None:
            self._walk_greedily()
        if self.best is not None and self.plan.beam_width > 1 and not self._is_done:
            self._grow_beam()
        return self.best is not None and (self.plan.beam_width == 1 or self._is_done)

    def _begin_tree(self, root: Node) -> None:
        self._root = self._cursor = root
        grammar = self.plan.grammar
        said = grammar.ranks_of(root.state)
        self._tree = Tree(root.state, said, most_codes=grammar.vocabulary.max_codes_per_answer)
        self._written: list[int] = []
        self._joined: set[int] = set()

    def _room(self) -> int:
        assert self.row is not None
        return min(MOST_TREE_TOKENS, self.row.width - len(self._linear)) - self._tree.count + 1

    def _place_greedily(self, limits: DraftLimits) -> bool:
        """Puts the way to where the walk stands into the tree, and drafts below; False where there is too little room."""
        nodes = self._chains([self._cursor])
        spare = self._room() - len(nodes)
        if spare < 0 or (spare < _LEAST_ROOM // 4 and self._tree.count > 1):
            return False
        self._place(nodes)
        cursor, plan = self._cursor, self.plan
        if limits.tokens > 0 and cursor.is_choice:
            capped = DraftLimits(min(spare, limits.tokens), limits.least_probability)
            draft_below(self._tree, cursor.place, plan.arrays, plan.training, plan.likely, capped)
        return True

    def _chains(self, targets: Sequence[Node]) -> list[Node]:
        """Returns the nodes that must be read so that the targets can be scored, parents first."""
        found: dict[Node, None] = {}
        for target in targets:
            chain = []
            node: Node | None = target
            while node is not None and node.place == NOT_FED and node not in found:
                chain.append(node)
                node = node.parent
            found.update(dict.fromkeys(reversed(chain)))
        return list(found)

    def _place(self, nodes: Sequence[Node]) -> None:
        tree, grammar = self._tree, self.plan.grammar
        for node in nodes:
            assert node.parent is not None
            node.place = tree.append(
                node.parent.place, node.edge, node.token, node.state, grammar.ranks_of(node.state), node.only_edge
            )

    def _is_judged(self, node: Node) -> bool:
        return node.place != NOT_FED and bool(self._tree.is_judged[node.place])

    def _walk_greedily(self) -> None:
        grammar, tree = self.plan.grammar, self._tree
        while True:
            node = self._cursor
            after = next_of(node, grammar, tree)
            log_p = 0.0
            if after is None:
                if not self._is_judged(node):
                    return
                self._join_shares(node)
                edge = self._choice(node)
                log_p = float(tree.best_log_p[node.place])
                if self.plan.keeps_steps:
                    every = tree.all_log_p[node.place]
                    self.steps.append((tuple(every.values()), list(every).index(edge)))
                after = child_of(node, edge, grammar, tree)
            self._code_logs, self._open_log = _with_step(node, after, log_p, self._code_logs, self._open_log)
            self._cursor = after
            if after.state.ended:
                self.best = self._answer(after, self._code_logs, tokens=len(self._settled) + len(self._written) + 1)
                self.best_passes = self.passes
                self._begin_beam()
                return
            self._written.append(after.token)

    def _join_shares(self, node: Node) -> None:
        """Joins what the model says at a judged node with what the classifier says: where the walk comes by, and once."""
        shares, tree, place = self.plan.shares, self._tree, node.place
        if shares is None or place in self._joined:
            return
        self._joined.add(place)
        edges, said = list(tree.all_log_p[place]), list(tree.all_log_p[place].values())
        ranges = self.plan.arrays.edges[LOW_RANK : HIGH_RANK + 1, edges]
        both = shares.joined(said, ranges[0], ranges[1])
        best = int(both.argmax())
        tree.best[place], tree.best_log_p[place] = edges[best], both[best]
        tree.all_log_p[place] = dict(zip(edges, both.tolist(), strict=True))

    def _choice(self, node: Node) -> int:
        if self._route is None:
            return int(self._tree.best[node.place])
        edge = self.plan.grammar.find_edge(node.state, self._route[len(self._settled) + len(self._written)])
        assert edge is not None
        return edge

    def _begin_beam(self) -> None:
        if self.plan.beam_width == 1:
            return
        if self._settled:
            self._linear, self._settled = self.prompt, []
            self._fed = min(self._fed, len(self.prompt) - 1)
            release(self._root)
            self._begin_tree(Node(self.prompt[-1], self.plan.grammar.initial, None, NO_EDGE, None))
        self._hypotheses = [_Hypothesis(self._root, 0.0)]

    def _missing(self) -> list[_Hypothesis]:
        grammar, tree = self.plan.grammar, self._tree
        return [one for one in self._hypotheses if not self._is_judged(one.node) and next_of(one.node, grammar, tree) is None]

    def _grow_beam(self) -> None:
        """Grows all hypotheses by one token at a time, as stepwise beam search does, until one stands at an unread node."""
        grammar, tree, width = self.plan.grammar, self._tree, self.plan.beam_width
        while self._hypotheses:
            if self._missing():
                return
            grown: list[tuple[float, _Hypothesis, int | None]] = []
            for one in self._hypotheses:
                if next_of(one.node, grammar, tree) is not None:
                    grown.append((one.log_p, one, None))
                else:
                    self._join_shares(one.node)
                    grown += [(one.log_p + log_p, one, edge) for edge, log_p in tree.all_log_p[one.node.place].items()]
            grown.sort(key=lambda item: -item[0])
            chosen, self._hypotheses = grown[: width - len(self._finished)], []
            for total, one, edge in chosen:
                after = next_of(one.node, grammar, tree) if edge is None else child_of(one.node, edge, grammar, tree)
                assert after is not None
                logs, open_log = _with_step(one.node, after, total - one.log_p, one.code_logs, one.open_log)
                into = self._finished if after.state.ended else self._hypotheses
                into.append(_Hypothesis(after, total, logs, open_log))
        self._is_done = True

    def finish(self) -> None:
        """Reads the beam's answers off, best first."""
        self._finished.sort(key=lambda one: -one.log_p)
        self.beam = [self._answer(one.node, one.code_logs, tokens=one.node.depth) for one in self._finished]
        self.release()

    def release(self) -> None:
        """Lets go of the tree; the question is not asked again."""
        self._hypotheses, self._finished = [], []
        release(self._root)

    def _answer(self, end: Node, code_logs: tuple[float, ...], *, tokens: int) -> DecodedAnswer:
        codes = self.plan.grammar.codes_of(end.state, self.plan.decode)
        confidences = tuple(math.exp(value) for value in code_logs)
        return DecodedAnswer(codes, confidences, math.exp(math.fsum(code_logs)), tokens)


def _with_step(
    node: Node, after: Node, log_p: float, code_logs: tuple[float, ...], open_log: float
) -> tuple[tuple[float, ...], float]:
    if len(after.state.codes) > len(node.state.codes):
        return (*code_logs, open_log + log_p), 0.0
    return code_logs, open_log + log_p
