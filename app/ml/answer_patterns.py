r"""A vocabulary's answers as a regular expression or as a GBNF grammar, for engines that are no part of the product.

    closed        (业务简介_1|9\.9)(\|(业务简介_1|9\.9)){0,3}
    open_values   (业务简介_1|9\.9|(9|\.){1,3})(\|(…)){0,3}

Only groups, `|` and `{m,n}` are used: every engine's dialect has them. "No code twice" is the one rule of the answer grammar
that neither can say.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from app.ml.codes import SEPARATOR, VALUE_CATEGORY, CodeVocabulary, category_of

ConstrainedMode = Literal["closed", "open_values"]

_METACHARACTERS = frozenset(r"\.+*?()|[]{}^$")
_GBNF_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def answer_regex(vocabulary: CodeVocabulary, mode: ConstrainedMode) -> str:
    """Returns a regular expression for whole answers, without anchors."""
    code = _code(vocabulary, mode, _regex_literal)
    more = _max_codes(vocabulary, mode) - 1
    return f"{code}({_regex_literal(SEPARATOR)}{code}){{0,{more}}}" if more else code


def answer_gbnf(vocabulary: CodeVocabulary, mode: ConstrainedMode) -> str:
    """Returns a grammar of llama.cpp's form (GBNF) for whole answers."""
    code = _code(vocabulary, mode, _gbnf_literal)
    more = _max_codes(vocabulary, mode) - 1
    root = f"code ({_gbnf_literal(SEPARATOR)} code){{0,{more}}}" if more else "code"
    return f"root ::= {root}\ncode ::= {code}\n"


def _code(vocabulary: CodeVocabulary, mode: ConstrainedMode, literal: Callable[[str], str]) -> str:
    choices = [literal(code) for code in vocabulary.codes]
    values = [code for code in vocabulary.codes if category_of(code) == VALUE_CATEGORY]
    if mode == "open_values" and values:
        # Characters as choices, not as a class: the dialects differ in what a class must escape.
        characters = _choice(literal(character) for character in sorted(set("".join(values))))
        choices.append(f"{characters}{{1,{max(map(len, values))}}}")
    return _choice(choices)


def _choice(patterns: Iterable[str]) -> str:
    return f"({'|'.join(patterns)})"


def _max_codes(vocabulary: CodeVocabulary, mode: ConstrainedMode) -> int:
    if mode == "open_values":
        return vocabulary.max_codes_per_answer
    return min(vocabulary.max_codes_per_answer, len(vocabulary.codes))


def _regex_literal(text: str) -> str:
    return "".join(f"\\{character}" if character in _METACHARACTERS else character for character in text)


def _gbnf_literal(text: str) -> str:
    return f'"{"".join(_gbnf_character(character) for character in text)}"'


def _gbnf_character(character: str) -> str:
    if character in _GBNF_ESCAPES:
        return _GBNF_ESCAPES[character]
    return f"\\x{ord(character):02X}" if ord(character) < ord(" ") else character
