"""One training example, and the rules that every format's rows must keep."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.ml.codes import MAX_CODES_PER_ANSWER, parse_answer
from app.ml.formats.columns import ColumnMapping
from app.ml.formats.normalisation import NormalisedCounts, has_full_width_digit, normalise_answer
from app.ml.formats.notes import Notes
from app.ml.formats.storable import unusable_text

MAX_QUESTION_CHARS = 8_000
MAX_CODE_CHARS = 200
MAX_SLICE_CHARS = 200
BROKEN_SEPARATOR = "has an empty code: a '|' at an end, or two in a row"

# A numbered code with more behind a sign that people use as a separator, or the other way round.
_OTHER_SEPARATOR = re.compile(r"_\d+\s*[,，;；、/\\丨│¦]\s*\S|\S\s*[,，;；、/\\丨│¦]\s*[^\s,，;；、/\\丨│¦]+_\d+$")


@dataclass(frozen=True)
class Example:
    """A question and its codes, in the file's order."""

    row: int
    """1-based position in the file: element of an array, line of JSON Lines, row of a table with its heading counted."""
    question: str
    codes: tuple[str, ...]
    slices: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What evaluations may group by, such as 答案类型."""


@dataclass(frozen=True)
class RowError:
    """Why a row cannot be used."""

    row: int
    field: str | None
    reason: str


@dataclass(frozen=True)
class RawRow:
    """A row as its format gives it, before any rule."""

    row: int
    fields: Mapping[str, object]


@dataclass
class Findings:
    """What is noticed while rows are read."""

    notes: Notes = field(default_factory=Notes)
    normalised: NormalisedCounts = field(default_factory=NormalisedCounts)


def example_from_fields(
    row: int, fields: Mapping[str, object], columns: ColumnMapping | None = None, *, findings: Findings | None = None
) -> Example | RowError:
    """Checks a row: a question, perhaps a second part of it, and an answer with codes joined by `|`.

    Without `findings` the answer is taken as it is; with them it is normalised, and what is odd is noted.
    """
    columns = columns or ColumnMapping()
    texts: list[str] = []
    for name, needed in ((columns.question, True), (columns.input, False), (columns.answer, True)):
        value = None if name is None else fields.get(name)
        if value is None and not needed:
            texts.append("")
            continue
        if value is None:
            return RowError(row, name, "is missing")
        if not isinstance(value, str):
            return RowError(row, name, f"must be text, not {json_type(value)}")
        if reason := unusable_text(value):
            return RowError(row, name, reason)
        texts.append(value.strip())
    question = "\n".join(part for part in texts[:2] if part)
    slices = _slices(row, fields, columns, findings)
    return make_example(
        row, question, texts[2], slices, question_field=columns.question, answer_field=columns.answer, findings=findings
    )


def make_example(
    row: int,
    question: str,
    answer: str,
    slices: Mapping[str, str],
    *,
    question_field: str,
    answer_field: str,
    findings: Findings | None,
) -> Example | RowError:
    """Checks a stripped question and answer; the fields are named in an error."""
    if not question:
        return RowError(row, question_field, "is empty")
    if len(question) > MAX_QUESTION_CHARS:
        return RowError(row, question_field, f"has {len(question)} characters, more than {MAX_QUESTION_CHARS}")
    normalised = answer if findings is None else normalise_answer(answer, findings.normalised)
    codes = parse_answer(normalised)
    if reason := _codes_reason(codes):
        return RowError(row, answer_field, reason)
    if findings is not None:
        if normalised != answer:
            findings.notes.add("answers_normalised", row)
        if has_full_width_digit(question):
            findings.notes.add("full_width_digits_in_questions", row)
        if any(_OTHER_SEPARATOR.search(code) for code in codes):
            findings.notes.add("suspicious_separator", row)
    return Example(row, question, codes, slices)


def json_type(value: object) -> str:
    """Names a JSON value's type in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
        case str():
            return "text"
    return type(value).__name__


def _codes_reason(codes: tuple[str, ...]) -> str | None:
    if codes == ("",):
        return "is empty"
    if "" in codes:
        return BROKEN_SEPARATOR
    if len(set(codes)) < len(codes):
        return "names a code twice"
    if len(codes) > MAX_CODES_PER_ANSWER:
        return f"has {len(codes)} codes, more than {MAX_CODES_PER_ANSWER}"
    if longest := max((code for code in codes if len(code) > MAX_CODE_CHARS), key=len, default=None):
        return f"has a code of {len(longest)} characters, more than {MAX_CODE_CHARS}"
    return None


def _slices(row: int, fields: Mapping[str, object], columns: ColumnMapping, findings: Findings | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, column in columns.slices.items():
        value = fields.get(column)
        if value is None:
            continue
        text = value.strip() if isinstance(value, str) else None
        if text is None or len(text) > MAX_SLICE_CHARS or unusable_text(text):
            if findings is not None:
                findings.notes.add("slice_left_out", row)
        elif text:
            found[name] = text
    return found
