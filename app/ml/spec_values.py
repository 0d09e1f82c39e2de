"""What a value of the job spec may be: ranges and names, and the lists of names, words and ids."""

from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Any

from app.ml.errors import InvalidSpec
from app.ml.formats.storable import unusable_text

# Every projection name of the decoder families that transformers ships with q/k/v/o and a gated MLP.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens")
MAX_TEACHERS, _ID_CHARS = 8, 110
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

WORD_LISTS = ("telecom_zh",)
"""Lists of synonyms that come with the product (app.ml.augmentation.synonyms)."""
MAX_SYNONYM_GROUPS, MAX_SYNONYMS, MAX_SYNONYM_CHARS = 200, 20, 40


def checked_value(spec_field: "Field[Any]", value: object, param: str) -> object:
    """Returns what a field of the job spec holds for a value that was asked for; `metadata` of the field says what it may be.

    Raises:
        InvalidSpec: a wrong type, or a value out of range.
    """
    meta, name = spec_field.metadata, spec_field.name
    if name in _LISTS:
        return _LISTS[name](value, param)
    if "choices" in meta:
        if value not in meta["choices"]:
            raise InvalidSpec(f"{name!r} must be one of {list(meta['choices'])}.", param=param)
        return value
    if "low" not in meta:
        if not isinstance(value, bool):
            raise InvalidSpec(f"{name!r} must be true or false.", param=param)
        return value
    if value is None and spec_field.default is None:
        return None
    whole = "int" in str(spec_field.type)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise InvalidSpec(f"{name!r} must be {'a whole number' if whole else 'a number'}.", param=param)
    if not meta["low"] <= value <= meta["high"]:  # NaN and infinity fail this too
        raise InvalidSpec(f"{name!r} must be between {meta['low']} and {meta['high']} ({meta['unit']}).", param=param)
    return value if whole else float(value)


def _checked_targets(value: object, param: str) -> tuple[str, ...]:
    if value == "all":
        return ALL_LINEAR
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise InvalidSpec("'lora_target' must be a list of module names, a comma-separated string, or 'all'.", param=param)
    for name in names:
        if name not in LORA_TARGETS:
            raise InvalidSpec(f"'lora_target' cannot be {name!r}. Use {list(LORA_TARGETS)} or 'all'.", param=param)
    return tuple(dict.fromkeys(names))


def _checked_synonyms(value: object, param: str) -> tuple[tuple[str, ...], ...]:
    advice = f"at most {MAX_SYNONYM_GROUPS} lists of 2 to {MAX_SYNONYMS} words of 1 to {MAX_SYNONYM_CHARS} characters"
    if not isinstance(value, list | tuple) or len(value) > MAX_SYNONYM_GROUPS:
        raise InvalidSpec(f"'synonyms' must be {advice}.", param=param)
    groups: list[tuple[str, ...]] = []
    for number, group in enumerate(value):
        if not isinstance(group, list | tuple) or not all(isinstance(word, str) for word in group):
            raise InvalidSpec(f"Group {number} of 'synonyms' must be a list of words: {advice}.", param=param)
        words = tuple(dict.fromkeys(group))
        if reason := next((reason for word in words if (reason := unusable_text(word))), None):
            raise InvalidSpec(f"Group {number} of 'synonyms' has a word that {reason}.", param=param)
        if not 2 <= len(words) <= MAX_SYNONYMS or not all(
            0 < len(word.strip()) <= len(word) <= MAX_SYNONYM_CHARS for word in words
        ):
            raise InvalidSpec(f"Group {number} of 'synonyms' is none of {advice}.", param=param)
        groups.append(words)
    return tuple(groups)


def _checked_lists(value: object, param: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(name in WORD_LISTS for name in value):
        raise InvalidSpec(f"'synonym_lists' must be a list of names out of {list(WORD_LISTS)}.", param=param)
    return tuple(dict.fromkeys(value))


def _checked_teachers(value: object, param: str) -> tuple[str, ...]:
    given = value if isinstance(value, list | tuple) else [None]
    ids = [one for one in given if isinstance(one, str) and 0 < len(one) <= _ID_CHARS]
    if len(ids) < len(given) or len(ids) > MAX_TEACHERS:
        raise InvalidSpec(
            f"'distill_from' must be a list of at most {MAX_TEACHERS} adapter ids, such as 'telecom:3'.", param=param
        )
    return tuple(dict.fromkeys(ids))


_LISTS: Mapping[str, Callable[[object, str], tuple[Any, ...]]] = {
    "lora_target": _checked_targets,
    "synonyms": _checked_synonyms,
    "synonym_lists": _checked_lists,
    "distill_from": _checked_teachers,
}
