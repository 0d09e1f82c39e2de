"""What a question puts into a pass, and what a pass asks of a question."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.ml.engine.drafted.rows import Row
from app.ml.engine.drafted.tree import CHOICE, CODES, Tree


class FedPlan(Protocol):
    """What a pass asks of a question's plan."""

    @property
    def arrays(self) -> Any:
        """The grammar's arrays."""
        ...

    @property
    def inverse_temperature(self) -> float:
        """What logits are multiplied by before they become probabilities."""
        ...

    @property
    def smoothing(self) -> float:
        """The label smoothing that is taken back before."""
        ...


class Fed(Protocol):
    """What a pass asks of a question."""

    passes: int
    row: Row | None

    @property
    def plan(self) -> FedPlan:
        """What it knows of its adapter."""
        ...

    @property
    def linear(self) -> list[int]:
        """The tokens that stand in order at the row's first columns."""
        ...

    @property
    def tree(self) -> Tree:
        """What stands behind them."""
        ...

    @property
    def columns_held(self) -> int:
        """How many of its row's columns hold something that it may look at."""
        ...


class Feeding:
    """What one question puts into one pass."""

    __slots__ = ("begin", "end", "first", "has_root", "last", "most_codes", "question", "scored")

    def __init__(self, question: Fed, first: int, last: int, begin: int, end: int, *, has_root: bool) -> None:
        """Tokens `first` to `last` of those that stand in order, entries `begin` to `end` of the tree."""
        self.question, self.first, self.last, self.begin, self.end = question, first, last, begin, end
        self.has_root = has_root
        """Whether the tree's root, the last of the tokens in order, is read in this pass"""
        tree = question.tree
        choices = tree.ints[CHOICE, begin:end].nonzero()[0] + begin
        self.scored: NDArray[np.int64] = np.concatenate([[0], choices]) if has_root else choices
        """The entries at which the model has a choice, in the order of the pass"""
        self.most_codes = int(tree.ints[CODES, self.scored].max()) if len(self.scored) else 0
        """Most complete codes of a scored entry"""

    @property
    def tokens(self) -> int:
        """How many tokens it puts into the pass."""
        return self.last - self.first + self.end - self.begin
