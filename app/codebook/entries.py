"""One entry of the code book, and the rules that every source's entries must keep."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.errors import InvalidInput, TooLarge
from app.ml.codes import SEPARATOR
from app.ml.formats.example import MAX_CODE_CHARS
from app.ml.formats.storable import unusable_text

MAX_ENTRIES = 200_000
MAX_CATEGORY_CHARS = 200
MAX_TEXT_CHARS = 8_000
_MAX_LISTED = 100


class InvalidCodebook(InvalidInput):
    """A code book cannot be used; the details list rows, fields and reasons."""

    code = "invalid_codebook"


@dataclass(frozen=True)
class Entry:
    """A code, and what the book says of it."""

    code: str
    category: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class GivenRow:
    """A row as it came: `row` counts from 1, a table's header line included."""

    row: int
    code: str
    category: str | None
    text: str | None


def check_entries(rows: Iterable[GivenRow]) -> list[Entry]:
    """Returns the entries, stripped of surrounding blanks; a blank category or text is none.

    Raises:
        InvalidCodebook: a row breaks a rule; names the first, and lists the first 100.
        TooLarge: more than 200,000 entries.
    """
    entries: list[Entry] = []
    errors: list[dict[str, object]] = []
    error_count = 0
    row_of_code: dict[str, int] = {}
    for given in rows:
        if len(entries) + error_count == MAX_ENTRIES:
            raise TooLarge(f"The code book has more than {MAX_ENTRIES} entries.", param="entries")
        entry = Entry(given.code.strip(), (given.category or "").strip() or None, (given.text or "").strip() or None)
        problem = _problem(entry)
        if problem is None and entry.code in row_of_code:
            problem = ("code", f"{entry.code!r} is in row {row_of_code[entry.code]} already")
        if problem is None:
            row_of_code[entry.code] = given.row
            entries.append(entry)
            continue
        error_count += 1
        if len(errors) < _MAX_LISTED:
            errors.append({"row": given.row, "field": problem[0], "reason": problem[1]})
    if errors:
        first = errors[0]
        raise InvalidCodebook(
            f"{error_count} row(s) cannot be used, so the book stays as it was. First: row {first['row']}, "
            f"field {first['field']!r} {first['reason']}.",
            param=str(first["field"]),
            details={"row": first["row"], "error_count": error_count, "errors": errors},
        )
    return entries


def _problem(entry: Entry) -> tuple[str, str] | None:
    if not entry.code:
        return "code", "is empty"
    if SEPARATOR in entry.code:
        return "code", f"has a {SEPARATOR!r}: that joins codes, so none may hold it"
    limits = (
        ("code", entry.code, MAX_CODE_CHARS),
        ("category", entry.category, MAX_CATEGORY_CHARS),
        ("text", entry.text, MAX_TEXT_CHARS),
    )
    for field, value, most in limits:
        if value is None:
            continue
        if len(value) > most:
            return field, f"has {len(value)} characters, more than {most}"
        if reason := unusable_text(value):
            return field, reason
    return None
