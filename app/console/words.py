"""The words of the pages: one catalogue a language, `words/<language>.json`; in Chinese also `words/errors_zh.json`."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

LANGUAGES = ("zh", "en")
DEFAULT_LANGUAGE = "zh"
_FOLDER = Path(__file__).parent / "words"


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Returns a language's words by key."""
    found: Mapping[str, str] = json.loads((_FOLDER / f"{language}.json").read_text("utf-8"))
    return found


@cache
def words_of_errors(language: str) -> Mapping[str, str]:
    """Returns, by an error's code, what is wrong in general and what to do next; nothing in English, which each error speaks."""
    path = _FOLDER / f"errors_{language}.json"
    found: Mapping[str, str] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


class Words:
    """Speaks one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._words = catalogue(language)

    def __call__(self, key: str, **values: object) -> str:
        """Returns the text of a key, with its `{places}` filled in.

        Raises:
            KeyError: no such key.
        """
        return self._words[key].format(**values)

    def find(self, key: str, default: str) -> str:
        """Returns the text of a key that the catalogue may not have, such as a status that a newer worker wrote."""
        return self._words.get(key, default)

    def of_error(self, code: str) -> str:
        """Returns what an error's code means and what to do next, or nothing where its own message says that in this language."""
        return words_of_errors(self.language).get(code, "")


def choose_language(wished: str | None, remembered: str | None, accepted: str) -> str:
    """Returns the language: as just wished, as wished before, as the browser asks (`Accept-Language`), or the default."""
    for choice in (wished, remembered):
        if choice in LANGUAGES:
            return choice
    ranked = []
    for place, part in enumerate(accepted[:200].split(",")):
        name, _, weight = part.partition(";q=")
        language = name.strip().lower().partition("-")[0]
        if language in LANGUAGES:
            ranked.append((-_weight(weight), place, language))
    return min(ranked)[2] if ranked else DEFAULT_LANGUAGE


def _weight(text: str) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        return 0.0
