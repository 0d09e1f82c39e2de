"""The code vocabulary: parse and join answers, the category of a code, and the grammar of answers over token ids.

An answer is one or more codes joined by `|`. As tokens it is the concatenation of each code's own tokens (encoded alone),
the tokens of `|` between two codes, and the end token: the same in training and in answering, because a tokenizer given
the joined text might merge across `|`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

AnswerMode = Literal["closed", "open_values", "free"]
"""`closed`: codes of the vocabulary alone. `open_values`: also plain values made of the vocabulary's values' tokens.
`free`: whatever the model writes. What is not in the vocabulary is marked."""

SEPARATOR = "|"
VALUE_CATEGORY = "value"
MAX_CODES_PER_ANSWER = 64
MAX_FREE_TOKENS = 24
"""Longest text that a base model alone is let write, tokens."""

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
        return code in self._set

    @property
    def _set(self) -> frozenset[str]:
        cached = self.__dict__.get("_codes")
        if cached is None:
            cached = frozenset(self.codes)
            self.__dict__["_codes"] = cached
        return cached


@dataclass
class TrieNode:
    """One prefix of some codes' tokens."""

    children: dict[int, "TrieNode"] = field(default_factory=dict)
    code: int | None = None
    """Index of the code that ends here."""
    below: frozenset[int] = frozenset()
    """Indices of the codes that end here or deeper."""


@dataclass(frozen=True)
class AnswerState:
    """Where a partial answer stands: a trie node, or inside the separator, or at the end."""

    node: TrieNode
    used: frozenset[int] = frozenset()
    codes: tuple[int, ...] = ()
    separator_left: tuple[int, ...] = ()
    ended: bool = False


class AnswerGrammar:
    """Which tokens may follow in an answer: `|` and the end only where a code ends, no code twice, a bounded number of codes.

    Every path from `initial` along `allowed` tokens reaches the end. Token ids only; knows no tensors.
    """

    def __init__(self, vocabulary: CodeVocabulary, encode: Callable[[str], Sequence[int]], *, end_id: int) -> None:
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
        self.root = TrieNode()
        for index, tokens in enumerate(self.tokens_of_code):
            if not tokens:
                raise ValueError(f"code {vocabulary.codes[index]!r} has no tokens")
            self._insert(index, tokens)
        self._collect()
        longest = max(map(len, self.tokens_of_code))
        self.max_tokens = vocabulary.max_codes_per_answer * (longest + len(self.separator)) + 1

    @property
    def initial(self) -> AnswerState:
        """The state before the first token."""
        return AnswerState(self.root)

    def allowed(self, state: AnswerState) -> list[int]:
        """Returns the token ids that may follow, without duplicates; empty only after the end."""
        if state.ended:
            return []
        if state.separator_left:
            return [state.separator_left[0]]
        tokens = [token for token, child in state.node.children.items() if not child.below <= state.used]
        code = state.node.code
        if code is not None and code not in state.used:
            if self._may_go_on(state):
                tokens.append(self.separator[0])
            tokens.append(self.end_id)
        return tokens

    def advance(self, state: AnswerState, token: int) -> AnswerState:
        """Returns the state after an allowed token."""
        if state.separator_left:
            return AnswerState(state.node, state.used, state.codes, state.separator_left[1:])
        code = state.node.code
        child = state.node.children.get(token)
        if child is not None and not child.below <= state.used:
            return AnswerState(child, state.used, state.codes)
        if code is None:
            raise ValueError(f"token {token} is not allowed here")
        closed = AnswerState(self.root, state.used | {code}, (*state.codes, code))
        if token == self.end_id:
            return AnswerState(self.root, closed.used, closed.codes, ended=True)
        if token != self.separator[0]:
            raise ValueError(f"token {token} is not allowed here")
        return AnswerState(self.root, closed.used, closed.codes, self.separator[1:])

    def codes_of(self, state: AnswerState) -> tuple[str, ...]:
        """Returns the complete codes of a state."""
        return tuple(self.vocabulary.codes[index] for index in state.codes)

    def encode_answer(self, codes: Sequence[str]) -> list[int]:
        """Returns the token ids of a whole answer, its end included."""
        index_of = {code: index for index, code in enumerate(self.vocabulary.codes)}
        parts = [self.tokens_of_code[index_of[code]] for code in codes]
        return answer_tokens(parts, self.separator, self.end_id)

    def _may_go_on(self, state: AnswerState) -> bool:
        more = len(state.codes) + 1
        return more < self.vocabulary.max_codes_per_answer and more < len(self.vocabulary.codes)

    def _insert(self, index: int, tokens: tuple[int, ...]) -> None:
        node = self.root
        for token in tokens:
            node = node.children.setdefault(token, TrieNode())
        if node.code is not None:
            raise ValueError(f"codes {node.code} and {index} have the same tokens")
        node.code = index

    def _collect(self) -> None:
        # Children after their parents, then backwards: no recursion, because a code may be 800 tokens deep.
        nodes = [self.root]
        for node in nodes:
            nodes.extend(node.children.values())
        for node in reversed(nodes):
            own = [] if node.code is None else [node.code]
            node.below = frozenset(own).union(*(child.below for child in node.children.values()))
            if own and not node.children.keys().isdisjoint((self.separator[0], self.end_id)):
                raise ValueError(f"after code {self.vocabulary.codes[own[0]]!r} another goes on with the token of `|` or the end")


def answer_tokens(parts: Sequence[Sequence[int]], separator: Sequence[int], end_id: int) -> list[int]:
    """Concatenates the codes' tokens with the separator's between them and the end after them."""
    tokens: list[int] = []
    for number, part in enumerate(parts):
        if number:
            tokens.extend(separator)
        tokens.extend(part)
    tokens.append(end_id)
    return tokens
