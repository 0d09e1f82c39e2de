"""JSON whose objects name something twice: parsers keep the last, so that nobody sees what was lost."""

import json


class _Repeated(Exception):
    """Carries the name out of the parser."""

    def __init__(self, name: str) -> None:
        self.name = name


def find_repeated_name(text: bytes) -> str | None:
    """Returns the first name that an object of a JSON text has twice; None also for what is no JSON."""
    if text.count(b":") < 2:
        return None
    try:
        json.loads(text, object_pairs_hook=_refuse_repetition)
    except _Repeated as repeated:
        return repeated.name
    except (ValueError, RecursionError):
        # The parser that reads it says what is wrong.
        return None
    return None


def _refuse_repetition(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise _Repeated(next(name for place, name in enumerate(names) if name in names[:place]))
