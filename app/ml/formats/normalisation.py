"""Full-width writing in answers: `１１．９｜开通方式＿…` is what an input method types for `11.9|…`.

Only answers are changed, because codes are compared character by character. Questions stay as customers type them: nobody
normalises them when the service answers.
"""

import re
from dataclasses import dataclass

_DIGITS = {0xFF10 + digit: str(digit) for digit in range(10)}
_FULL_WIDTH_DIGIT = re.compile("[\uff10-\uff19]")
_FULL_WIDTH_SEPARATOR = "\uff5c"
_FULL_WIDTH_DOT = re.compile(r"(?<=[0-9])\uff0e(?=[0-9])")


@dataclass
class NormalisedCounts:
    """How many characters of answers were changed."""

    digits: int = 0
    separators: int = 0
    dots: int = 0
    """Full-width dots between two digits; others stay."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.digits + self.separators + self.dots

    def to_mapping(self) -> dict[str, int]:
        """Returns the JSON form."""
        return {"digits": self.digits, "separators": self.separators, "dots": self.dots}


def normalise_answer(text: str, counts: NormalisedCounts) -> str:
    """Returns an answer with half-width digits and `|`, and adds to the counts what it changed."""
    if text.isascii():
        return text
    digits = len(_FULL_WIDTH_DIGIT.findall(text))
    if digits:
        text = text.translate(_DIGITS)
    separators = text.count(_FULL_WIDTH_SEPARATOR)
    if separators:
        text = text.replace(_FULL_WIDTH_SEPARATOR, "|")
    text, dots = _FULL_WIDTH_DOT.subn(".", text)
    counts.digits += digits
    counts.separators += separators
    counts.dots += dots
    return text


def has_full_width_digit(text: str) -> bool:
    """Says whether a question holds what an answer would have normalised."""
    return not text.isascii() and _FULL_WIDTH_DIGIT.search(text) is not None
