"""One question that nothing constrains: the base model's own words, or an adapter's in mode `free`."""

import math
from dataclasses import dataclass, field

from app.ml.codes import AnswerState
from app.ml.engine.drafted.feeding import Feeding
from app.ml.engine.drafted.grammar_arrays import GrammarArrays, no_grammar
from app.ml.engine.drafted.rows import Row
from app.ml.engine.drafted.tree import Tree
from app.ml.tokens import TextTokenizer


@dataclass(frozen=True)
class FreePlan:
    """What a pass asks of a plan."""

    arrays: GrammarArrays = field(default_factory=no_grammar)
    inverse_temperature: float = 1.0
    smoothing: float = 0.0


@dataclass(eq=False)
class FreeQuestion:
    """A token a pass, up to the end token, a line break, or `most_tokens`."""

    prompt: list[int]
    tokenizer: TextTokenizer
    most_tokens: int
    passes: int = 0
    row: Row | None = None
    plan: FreePlan = field(default_factory=FreePlan)
    log_p: float = 0.0
    is_done: bool = False

    linear: list[int] = field(init=False)
    """The prompt and what was written."""
    tree: Tree = field(init=False)
    """A root alone: nothing is drafted."""

    def __post_init__(self) -> None:
        """Stands before the first token."""
        self.linear = list(self.prompt)
        self.tree = Tree(AnswerState(0), (), most_codes=0)
        self._fed = 0

    @property
    def columns_held(self) -> int:
        """How many of its row's columns hold something."""
        return self._fed

    @property
    def room_wanted(self) -> int:
        """Places behind the prompt."""
        return self.most_tokens

    @property
    def written(self) -> list[int]:
        """The tokens behind the prompt."""
        return self.linear[len(self.prompt) :]

    @property
    def text(self) -> str:
        """The first line of what was written."""
        return self.tokenizer.decode(self.written).strip().split("\n")[0].strip()

    def sit(self, row: Row) -> None:
        """Takes a row; what it holds of the prompt is not read again."""
        self.row, self._fed = row, len(row.tokens)

    def feed(self, *, most_linear: int) -> Feeding:
        """Returns what the next pass shall read."""
        first = self._fed
        self._fed = min(len(self.linear), first + most_linear)
        return Feeding(self, first, self._fed, 1, 1, has_root=self._fed == len(self.linear))

    def take(self, token: int, log_p: float) -> None:
        """Goes on with the model's choice."""
        self.log_p += log_p
        if token == self.tokenizer.eos_id:
            self.is_done = True
            return
        self.linear.append(token)
        has_line = "\n" in self.tokenizer.decode(self.written).lstrip("\n")
        self.is_done = has_line or len(self.written) >= self.most_tokens

    @property
    def probability(self) -> float:
        """The probability of what was written."""
        return math.exp(self.log_p)
