"""The tree of answers that one question's passes explore."""

from app.ml.codes import AnswerGrammar, AnswerState

NOT_FED = -1


class Node:
    """One token behind a prompt, or the prompt's last token (the root)."""

    __slots__ = ("best", "bits", "by_edge", "column", "depth", "is_scored", "log_p", "only_edge", "parent", "state", "token")

    def __init__(self, token: int, state: AnswerState, parent: "Node | None", only_edge: int | None) -> None:
        self.token = token
        self.state = state
        self.parent = parent
        self.only_edge = only_edge
        """The edge that must follow; None where there is a choice, or a separator to write."""
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.column = NOT_FED
        """Where its keys and values stand in the question's row."""
        self.bits = 0
        """Which columns behind the prompt it sees: its ancestors' and its own."""
        self.is_scored = False
        self.best = 0
        """The edge that the model would take."""
        self.log_p: dict[int, float] = {}
        """Log-probability of an edge among the open ones: of the best alone, or of all."""
        self.by_edge: dict[int, Node] = {}

    @property
    def needs_scores(self) -> bool:
        """Says whether the model has a choice here."""
        return self.only_edge is None and not self.state.separator_left and not self.state.ended


def make_root(token: int, grammar: AnswerGrammar) -> Node:
    """Returns the tree's root, which is always scored: its state is the model's view of the question."""
    return Node(token, grammar.initial, None, None)


# A state with more edges than this is not searched for whether all but one are closed.
_FEW_EDGES = 4
_SEPARATOR = -1
"""The key of the only child inside a separator."""


def child_of(node: Node, edge: int, grammar: AnswerGrammar) -> Node:
    """Returns the node behind an open edge, made if it was not there."""
    child = node.by_edge.get(edge)
    if child is None:
        state = grammar.follow(node.state, edge)
        child = node.by_edge[edge] = Node(grammar.edge_token[edge], state, node, _only_edge(state, grammar))
    return child


def next_of(node: Node, grammar: AnswerGrammar) -> "Node | None":
    """Returns the only node that may follow, made if it was not there; None where there is a choice, or nothing."""
    state = node.state
    if state.separator_left:
        child = node.by_edge.get(_SEPARATOR)
        if child is None:
            token = state.separator_left[0]
            after = grammar.advance(state, token)
            child = node.by_edge[_SEPARATOR] = Node(token, after, node, _only_edge(after, grammar))
        return child
    return None if node.only_edge is None else child_of(node, node.only_edge, grammar)


def release(root: Node) -> None:
    """Takes a tree apart: nodes that hold each other would wait for the garbage collector, which then takes half of the time."""
    left = [root]
    while left:
        node = left.pop()
        left.extend(node.by_edge.values())
        node.by_edge.clear()
        node.parent = None


def _only_edge(state: AnswerState, grammar: AnswerGrammar) -> int | None:
    if state.ended or state.separator_left:
        return None
    start, stop = grammar.edge_start[state.node], grammar.edge_start[state.node + 1]
    if stop - start > _FEW_EDGES:
        return None
    edges = grammar.edges(state)
    return edges[0] if len(edges) == 1 else None
