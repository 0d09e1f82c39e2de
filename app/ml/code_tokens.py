"""Codes as single tokens: tokens of the base model that stand for an adapter's codes instead of their own text. No torch.

Where codes are spelled, `开通方式_98` and `开通方式_99` part at their last token, and a small model must learn each as a path of
decisions; as single tokens it is one decision. The base's weights stay as they are (a verbalizer, arXiv 2001.07676).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from app.ml.tokens import TextTokenizer


@dataclass(frozen=True)
class CodeTokenizer:
    """A base model's tokenizer, some of whose tokens are codes."""

    base: TextTokenizer
    token_of: Mapping[str, int]
    """Code -> its token."""

    @property
    def bos_id(self) -> int | None:
        """The base's."""
        return self.base.bos_id

    @property
    def eos_id(self) -> int:
        """The base's."""
        return self.base.eos_id

    @property
    def pad_id(self) -> int:
        """The base's."""
        return self.base.pad_id

    def encode(self, text: str) -> list[int]:
        """Returns the one token of a text that is a code, and the base's tokens of any other."""
        token = self.token_of.get(text)
        return self.base.encode(text) if token is None else [token]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, codes among them."""
        runs = groupby(ids, key=self._code_of.__contains__)
        texts = (
            "".join(map(self._code_of.__getitem__, run)) if are_codes else self.base.decode(list(run)) for are_codes, run in runs
        )
        return "".join(texts)

    @cached_property
    def _code_of(self) -> dict[int, str]:
        return {token: code for code, token in self.token_of.items()}


def without_codes(tokenizer: TextTokenizer) -> TextTokenizer:
    """Returns the base model's own tokenizer."""
    return tokenizer.base if isinstance(tokenizer, CodeTokenizer) else tokenizer
