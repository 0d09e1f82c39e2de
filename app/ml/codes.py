"""The code vocabulary: parse and join answers, the category of a code, and the grammar of answers over token ids.

An answer is one or more codes joined by `|`. As tokens it is the concatenation of each code's own tokens (encoded alone),
the tokens of `|` between two codes, and the end token: the same in training and in answering, because a tokenizer given
the joined text might merge across `|`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Literal, NamedTuple

AnswerMode = Literal["closed", "open_values", "free"]
"""`closed`: codes of the vocabulary alone. `open_values`: also plain values made of the vocabulary's values' tokens.
`free`: whatever the model writes. What is not in the vocabulary is marked."""
DecideBy = Literal["answer", "set", "expected_f1"]
"""What the best of several complete answers is: the likeliest; the set of codes that is likeliest over all its orders; or
the one that shares most with all of them."""

SEPARATOR = "|"
VALUE_CATEGORY = "value"
MAX_CODES_PER_ANSWER = 64
MAX_FREE_TOKENS = 24
"""Longest text that a base model alone is let write, tokens."""

_FEW_EDGES = 4
_DIGITS = re.compile(r"(\d+)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NUMBERED = re.compile(r"(?P<category>.+)_\d+")


def parse_answer(text: str) -> tuple[str, ...]:
    """Splits an answer into its codes, stripped of surrounding blanks; empty parts are kept as `""` for the caller to refuse."""
    return tuple(part.strip() for part in text.split(SEPARATOR))


def join_codes(codes: Iterable[str]) -> str:
    """Joins codes into the text of an answer."""
    return SEPARATOR.join(codes)


def category_of(code: str) -> str:
    """Returns `开通方式` of `开通方式_98`; a plain value such as `11.9` has the category `value`."""
    match = _NUMBERED.fullmatch(code)
    return match["category"] if match else VALUE_CATEGORY


def shape_of(code: str) -> str:
    """Returns a code with 0 for each number in it: `取消方式_0` of `取消方式_59`, `0G` of `1.5G`."""
    return _NUMBER.sub("0", code)


def sorted_codes(codes: Iterable[str]) -> tuple[str, ...]:
    """Returns codes in one order whatever a file's is: by text, numbers in it by their value, so `a_9` before `a_10`."""
    return tuple(
        sorted(codes, key=lambda code: [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(code)])
    )


@dataclass(frozen=True)
class CodeVocabulary:
    """The codes that an adapter may answer with, in the order of first use."""

    codes: tuple[str, ...]
    max_codes_per_answer: int

    @classmethod
    def from_answers(cls, answers: Iterable[Sequence[str]]) -> "CodeVocabulary":
        """Collects the codes of training answers; an answer may grow as long as the longest of them."""
        seen: dict[str, None] = {}
        longest = 1
        for answer in answers:
            longest = max(longest, len(answer))
            seen.update(dict.fromkeys(answer))
        return cls(tuple(seen), min(longest, len(seen) or 1))

    def extended(self, codes: Iterable[str]) -> "CodeVocabulary":
        """Returns a vocabulary with further codes at its end; answers grow no longer by them."""
        return CodeVocabulary(tuple(dict.fromkeys((*self.codes, *codes))), self.max_codes_per_answer)

    def __contains__(self, code: str) -> bool:
        return code in self._places

    def index_of(self, code: str) -> int:
        """Returns a code's place in `codes`.

        Raises:
            KeyError: there is no such code.
        """
        return self._places[code]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {code: index for index, code in enumerate(self.codes)}


class EdgeKind(IntEnum):
    """What a token does that may follow."""

    GROW = 0
    """It goes on with a code."""
    SEPARATE = 1
    """It ends a code and begins `|`."""
    END = 2
    """It ends the answer."""


class AnswerState(NamedTuple):
    """Where a partial answer stands: at a node of the trie, or inside the separator, or at the end."""

    node: int
    used: tuple[int, ...] = ()
    """Ranks of the complete codes: their places in the trie's depth-first order."""
    codes: tuple[int, ...] = ()
    """Indices of the complete codes; -1 - i for the i-th open value."""
    separator_left: tuple[int, ...] = ()
    ended: bool = False
    spelled: tuple[int, ...] = ()
    """Tokens of the code that is being written, where it may become an open value."""
    open_values: tuple[tuple[int, ...], ...] = ()


class AnswerGrammar:
    """Which tokens may follow in an answer: `|` and the end only where a code ends, no code twice, a bounded number of codes.

    The trie's nodes are numbered, and the edges of node n are `edge_start[n]` to `edge_start[n + 1]` of the `edge_` lists, so
    that a device can hold them as arrays. An edge leads to the codes of ranks `edge_low` to `edge_high` (none: an open value);
    it is closed once all of them are used. Every path from `initial` along `allowed` tokens reaches the end. Token ids only;
    knows no tensors.

    In mode `open_values` a code may also be any run of the tokens that plain values of the vocabulary are written in, as long
    as the longest of them.
    """

    def __init__(
        self,
        vocabulary: CodeVocabulary,
        encode: Callable[[str], Sequence[int]],
        *,
        end_id: int,
        mode: AnswerMode = "closed",
    ) -> None:
        """`encode` gives the token ids of a text without special tokens.

        Raises:
            ValueError: the vocabulary is empty, a code or `|` has no tokens, two codes have the same tokens, or a code's
                tokens continue another's with the first token of `|` or with the end, so that an answer could be read twice.
        """
        if not vocabulary.codes:
            raise ValueError("an answer grammar needs at least one code")
        self.vocabulary = vocabulary
        self.end_id = end_id
        self.separator = tuple(encode(SEPARATOR))
        if not self.separator:
            raise ValueError("the separator has no tokens")
        self.tokens_of_code = tuple(tuple(encode(code)) for code in vocabulary.codes)
        longest = max(map(len, self.tokens_of_code))
        self.max_tokens = vocabulary.max_codes_per_answer * (longest + len(self.separator)) + 1
        children: list[dict[int, int]] = [{}]
        self.code_at: list[int] = [-1]
        """Index of the code that ends at a node; -1: none."""
        self.depth_at: list[int] = [0]
        """How many tokens of a code lead to a node."""
        for index, tokens in enumerate(self.tokens_of_code):
            if not tokens:
                raise ValueError(f"code {vocabulary.codes[index]!r} has no tokens")
            self._insert(children, index, tokens)
        self._check_ends(children)
        self.code_of_rank: list[int] = []
        self.edge_start: list[int] = []
        self.edge_token: list[int] = []
        self.edge_kind: list[EdgeKind] = []
        self.edge_low: list[int] = []
        self.edge_high: list[int] = []
        self.edge_target: list[int] = []
        ranges = self._rank(children)
        self.rank_of_code = [0] * len(self.tokens_of_code)
        for rank, code in enumerate(self.code_of_rank):
            self.rank_of_code[code] = rank
        is_open = mode == "open_values"
        values = [
            tokens
            for code, tokens in zip(vocabulary.codes, self.tokens_of_code, strict=True)
            if is_open and category_of(code) == VALUE_CATEGORY
        ]
        self._value_tokens = frozenset(token for tokens in values for token in tokens) - {self.separator[0], end_id}
        self._longest_value = max(map(len, values), default=0)
        self._add_edges(children, ranges)
        self._edge_of_token = [
            {self.edge_token[edge]: edge for edge in range(start, stop)}
            for start, stop in zip(self.edge_start, self.edge_start[1:], strict=False)
        ]

    @property
    def has_open_values(self) -> bool:
        """Says whether values outside the vocabulary may be written."""
        return self._longest_value > 0

    @property
    def initial(self) -> AnswerState:
        """The state before the first token."""
        return AnswerState(0)

    def edges(self, state: AnswerState) -> list[int]:
        """Returns the edges that are open; empty inside the separator and after the end."""
        if state.ended or state.separator_left:
            return []
        start, stop = self.edge_start[state.node], self.edge_start[state.node + 1]
        used = state.used
        may_go_on = self.may_go_on(state)
        if not used and may_go_on:
            return list(range(start, stop))
        kinds, lows, highs = self.edge_kind, self.edge_low, self.edge_high
        found = []
        for edge in range(start, stop):
            if kinds[edge] is EdgeKind.SEPARATE and not may_go_on:
                continue
            low, high = lows[edge], highs[edge]
            if low < high <= low + len(used) and sum(low <= rank < high for rank in used) == high - low:
                continue
            found.append(edge)
        return found

    def allowed(self, state: AnswerState) -> list[int]:
        """Returns the token ids that may follow, without duplicates; empty only after the end."""
        if state.separator_left:
            return [state.separator_left[0]]
        return [self.edge_token[edge] for edge in self.edges(state)]

    def find_edge(self, state: AnswerState, token: int) -> int | None:
        """Returns the open edge of a token, or None where the token is not allowed (or the separator is being written)."""
        if state.ended or state.separator_left:
            return None
        edge = self._edge_of_token[state.node].get(token)
        if edge is None or (self.edge_kind[edge] is EdgeKind.SEPARATE and not self.may_go_on(state)):
            return None
        low, high = self.edge_low[edge], self.edge_high[edge]
        if low < high <= low + len(state.used) and sum(low <= rank < high for rank in state.used) == high - low:
            return None
        return edge

    def find_only_edge(self, state: AnswerState) -> int | None:
        """Returns the edge that must be taken; None where there is a choice, after the end, and inside the separator.

        A state with more than four edges counts as a choice even if all but one are closed.
        """
        if state.ended or state.separator_left:
            return None
        start, stop = self.edge_start[state.node], self.edge_start[state.node + 1]
        if stop - start == 1:
            # From every node that can be reached a path leads to the end.
            return start
        if stop - start > _FEW_EDGES or (not state.used and self.may_go_on(state)):
            return None
        edges = self.edges(state)
        return edges[0] if len(edges) == 1 else None

    def follow(self, state: AnswerState, edge: int) -> AnswerState:
        """Returns the state behind an open edge."""
        kind = self.edge_kind[edge]
        if kind is EdgeKind.GROW:
            spelled = (*state.spelled, self.edge_token[edge]) if self._longest_value else ()
            return AnswerState(self.edge_target[edge], state.used, state.codes, (), False, spelled, state.open_values)
        low = self.edge_low[edge]
        used, codes, open_values = state.used, state.codes, state.open_values
        if low < self.edge_high[edge]:
            used, codes = (*used, low), (*codes, self.code_of_rank[low])
        else:
            codes, open_values = (*codes, -1 - len(open_values)), (*open_values, state.spelled)
        if kind is EdgeKind.END:
            return AnswerState(0, used, codes, (), True, (), open_values)
        return AnswerState(0, used, codes, self.separator[1:], False, (), open_values)

    def advance(self, state: AnswerState, token: int) -> AnswerState:
        """Returns the state after an allowed token."""
        if state.separator_left and token == state.separator_left[0]:
            return state._replace(separator_left=state.separator_left[1:])
        edge = self.find_edge(state, token)
        if edge is None:
            raise ValueError(f"token {token} is not allowed here")
        return self.follow(state, edge)

    def codes_of(self, state: AnswerState, decode: Callable[[Sequence[int]], str] | None = None) -> tuple[str, ...]:
        """Returns the complete codes of a state; `decode` gives the text of open values."""
        codes = self.vocabulary.codes
        if not state.open_values:
            return tuple(codes[index] for index in state.codes)
        assert decode is not None
        return tuple(codes[index] if index >= 0 else decode(state.open_values[-1 - index]) for index in state.codes)

    def ranks_of(self, state: AnswerState) -> list[int]:
        """Returns the ranks of a state's complete codes in their order, -1 for an open value."""
        return [self.rank_of_code[code] if code >= 0 else -1 for code in state.codes]

    def encode_answer(self, codes: Sequence[str]) -> list[int]:
        """Returns the token ids of a whole answer of the vocabulary, its end included."""
        parts = [self.tokens_of_code[self.vocabulary.index_of(code)] for code in codes]
        return answer_tokens(parts, self.separator, self.end_id)

    def may_go_on(self, state: AnswerState) -> bool:
        """Says whether a further code may follow the one that is being written."""
        more = len(state.codes) + 1
        return more < self.vocabulary.max_codes_per_answer and (more < len(self.vocabulary.codes) or bool(self._longest_value))

    def _insert(self, children: list[dict[int, int]], index: int, tokens: tuple[int, ...]) -> None:
        node = 0
        for token in tokens:
            child = children[node].get(token)
            if child is None:
                child = children[node][token] = len(children)
                children.append({})
                self.code_at.append(-1)
                self.depth_at.append(self.depth_at[node] + 1)
            node = child
        if self.code_at[node] >= 0:
            raise ValueError(f"codes {self.code_at[node]} and {index} have the same tokens")
        self.code_at[node] = index

    def _check_ends(self, children: Sequence[dict[int, int]]) -> None:
        for node, code in enumerate(self.code_at):
            if code >= 0 and not children[node].keys().isdisjoint((self.separator[0], self.end_id)):
                raise ValueError(f"after code {self.vocabulary.codes[code]!r} another goes on with the token of `|` or the end")

    def _rank(self, children: Sequence[dict[int, int]]) -> list[tuple[int, int]]:
        """Numbers the codes depth first; returns each node's range of ranks. No recursion: a code may be 800 tokens deep."""
        lows, highs = [0] * len(children), [0] * len(children)
        stack: list[tuple[int, bool]] = [(0, False)]
        while stack:
            node, is_left = stack.pop()
            if is_left:
                highs[node] = len(self.code_of_rank)
                continue
            lows[node] = len(self.code_of_rank)
            if self.code_at[node] >= 0:
                self.code_of_rank.append(self.code_at[node])
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(children[node].values()))
        return list(zip(lows, highs, strict=True))

    def _add_edges(self, children: Sequence[dict[int, int]], ranges: Sequence[tuple[int, int]]) -> None:
        """Lays the edges out: those of the trie's nodes, and in mode `open_values` those of values that leave the trie."""
        # How many tokens of a value lead to a node; None where a token stands on the way that no value has.
        depth_of: list[int | None] = [0, *[None] * (len(children) - 1)]
        # An open value of d tokens stands at node `len(children) + d - 1`.
        off_trie = len(children) - 1
        for node, of_node in enumerate(children):
            self.edge_start.append(len(self.edge_token))
            depth = depth_of[node]
            for token, child in of_node.items():
                self._edge(token, EdgeKind.GROW, *ranges[child], child)
                if depth is not None and token in self._value_tokens:
                    depth_of[child] = depth + 1
            if depth is not None and depth < self._longest_value:
                for token in sorted(self._value_tokens - of_node.keys()):
                    self._edge(token, EdgeKind.GROW, 0, 0, off_trie + depth + 1)
            code = self.code_at[node]
            rank = self.rank_of_code[code] if code >= 0 else 0
            if code >= 0 or (depth and depth <= self._longest_value and self._longest_value):
                # What may be written as an open value may be said again: a used code must not leave a path without an end.
                is_value = bool(self._longest_value and depth)
                self._ends(rank, rank + 1 if code >= 0 and not is_value else rank)
        for depth in range(1, self._longest_value + 1):
            self.edge_start.append(len(self.edge_token))
            self.code_at.append(-1)
            self.depth_at.append(depth)
            if depth < self._longest_value:
                for token in sorted(self._value_tokens):
                    self._edge(token, EdgeKind.GROW, 0, 0, off_trie + depth + 1)
            self._ends(0, 0)
        self.edge_start.append(len(self.edge_token))

    def _ends(self, low: int, high: int) -> None:
        self._edge(self.separator[0], EdgeKind.SEPARATE, low, high, 0)
        self._edge(self.end_id, EdgeKind.END, low, high, 0)

    def _edge(self, token: int, kind: EdgeKind, low: int, high: int, target: int) -> None:
        self.edge_token.append(token)
        self.edge_kind.append(kind)
        self.edge_low.append(low)
        self.edge_high.append(high)
        self.edge_target.append(target)


def answer_tokens(parts: Sequence[Sequence[int]], separator: Sequence[int], end_id: int) -> list[int]:
    """Concatenates the codes' tokens with the separator's between them and the end after them."""
    tokens: list[int] = []
    for number, part in enumerate(parts):
        if number:
            tokens.extend(separator)
        tokens.extend(part)
    tokens.append(end_id)
    return tokens
