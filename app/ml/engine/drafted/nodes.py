"""Where a walk over a question's tree stands: made as far as somebody walks."""

from app.ml.codes import AnswerGrammar, AnswerState
from app.ml.engine.drafted.tree import NO_EDGE, Tree

NOT_FED = -1


class Node:
    """One token behind a prompt, or the prompt's last token (the root)."""

    __slots__ = ("by_edge", "depth", "edge", "only_edge", "parent", "place", "state", "token")

    def __init__(self, token: int, state: AnswerState, parent: "Node | None", edge: int, only_edge: int | None) -> None:
        self.token = token
        self.state = state
        self.parent = parent
        self.edge = edge
        self.only_edge = only_edge
        """The edge that must follow; None where there is a choice, or a separator to write."""
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.place = NOT_FED if parent is not None else 0
        """Its entry in the tree"""
        self.by_edge: dict[int, Node] = {}

    @property
    def is_choice(self) -> bool:
        """Says whether the model has a choice here."""
        return self.only_edge is None and not self.state.separator_left and not self.state.ended


def child_of(node: Node, edge: int, grammar: AnswerGrammar, tree: Tree) -> Node:
    """Returns the node behind an open edge, made if it was not there."""
    child = node.by_edge.get(edge)
    if child is None:
        child = _child(node, edge, grammar.edge_token[edge], grammar.follow(node.state, edge), grammar, tree)
    return child


def next_of(node: Node, grammar: AnswerGrammar, tree: Tree) -> Node | None:
    """Returns the only node that may follow, made if it was not there; None where there is a choice, or nothing."""
    state = node.state
    if state.separator_left:
        child = node.by_edge.get(NO_EDGE)
        if child is None:
            token = state.separator_left[0]
            child = _child(node, NO_EDGE, token, grammar.advance(state, token), grammar, tree)
        return child
    return None if node.only_edge is None else child_of(node, node.only_edge, grammar, tree)


def release(root: Node) -> None:
    """Takes a tree apart: nodes that hold each other would wait for the garbage collector, which then takes half of the time."""
    left = [root]
    while left:
        node = left.pop()
        left.extend(node.by_edge.values())
        node.by_edge.clear()
        node.parent = None


def _child(node: Node, edge: int, token: int, state: AnswerState, grammar: AnswerGrammar, tree: Tree) -> Node:
    child = node.by_edge[edge] = Node(token, state, node, edge, grammar.find_only_edge(state))
    if node.place != NOT_FED:
        child.place = tree.find(node.place, edge)
    return child
