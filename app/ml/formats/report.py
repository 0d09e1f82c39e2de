"""What a dataset file holds and what is wrong with it."""

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from app.ml.codes import category_of
from app.ml.errors import DatasetFormatError
from app.ml.formats.canonical import CanonicalWriter
from app.ml.formats.detection import ReadOptions
from app.ml.formats.example import BROKEN_SEPARATOR, Example, RowError
from app.ml.formats.reading import DatasetRows
from app.ml.formats.repetition import Repetition, RepetitionFinder

MAX_LISTED = 100
_MAX_REFUSAL_BYTES = 12 * 1024
MAX_CODES_LISTED = 1_000
RARE_CODE_ROWS = 3
MAX_DISTINCT_CODES = 200_000


@dataclass
class DatasetReport:
    """The validation report of one file; lists are cut (100, codes 1000), the totals are not."""

    rows: int = 0
    is_check_passed: bool = True
    error_count: int = 0
    errors: list[dict[str, object]] = field(default_factory=list)
    distinct_codes: int = 0
    distinct_answers: int = 0
    codes_per_answer_max: int = 0
    categories: dict[str, int] = field(default_factory=dict)
    """Rows that have a code of the category."""
    rare_code_count: int = 0
    """Codes that fewer than `rare_code_rows` rows show."""
    duplicate_question_count: int = 0
    conflicting_question_count: int = 0
    """Questions that occur with different answers."""
    conflicting_rows: list[dict[str, object]] = field(default_factory=list)
    question_chars_max: int = 0
    question_chars_mean: float = 0.0
    format: str = ""
    encoding: str | None = None
    columns: dict[str, object] = field(default_factory=dict)
    warnings: list[dict[str, object]] = field(default_factory=list)
    normalised: dict[str, int] = field(default_factory=dict)
    codes: list[dict[str, object]] = field(default_factory=list)
    """The most frequent codes with their rows."""
    rare_code_rows: int = RARE_CODE_ROWS
    rare_codes: list[dict[str, object]] = field(default_factory=list)
    broken_separator_count: int = 0
    """Rows (they are errors) with an empty code before, after or between `|`."""
    slices: dict[str, int] = field(default_factory=dict)
    """Rows that have a value of the slice."""
    leak: dict[str, object] | None = None
    """Rows whose question also stands in the file that was compared with."""
    token_lengths: dict[str, object] | None = None
    """Of prompt plus answer, for the base model that was asked for."""

    def to_mapping(self) -> dict[str, object]:
        """Returns the JSON form."""
        return asdict(self)

    def to_refusal(self) -> dict[str, object]:
        """Returns what a refused file's owner needs: numbers, and as many errors as a small reply holds."""
        kept = {name: value for name, value in asdict(self).items() if not isinstance(value, list | dict)}
        errors: list[dict[str, object]] = []
        size_bytes = 0
        for error in self.errors:
            size_bytes += len(json.dumps(error))
            if size_bytes > _MAX_REFUSAL_BYTES:
                break
            errors.append(error)
        return {**kept, "errors": errors}


@dataclass
class _Totals:
    codes: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    slices: Counter[str] = field(default_factory=Counter)
    chars: int = 0


def check_dataset(
    path: Path,
    options: ReadOptions | None = None,
    *,
    rows_to: Path | None = None,
    compare_with: Iterable[Example] | None = None,
    rare_code_rows: int = RARE_CODE_ROWS,
) -> DatasetReport:
    """Reads the whole file once, and writes its canonical rows to `rows_to`; beside the file a temporary one may lie.

    Memory does not grow with the rows: questions and answers are compared as digests on disk.

    Raises:
        InvalidInput: an option is wrong.
        DatasetFormatError: the file is empty or broken, or has too many distinct codes.
    """
    report = DatasetReport(rare_code_rows=rare_code_rows)
    totals = _Totals()
    rows = DatasetRows(path, options)
    with ExitStack() as stack:
        finder = stack.enter_context(RepetitionFinder(path.parent, max_listed=MAX_LISTED))
        writer = None if rows_to is None else stack.enter_context(CanonicalWriter(rows_to))
        for row in rows:
            if isinstance(row, RowError):
                _count_error(report, row)
                continue
            _count(report, totals, row)
            finder.add(row)
            if writer is not None:
                writer.write(row)
        if compare_with is not None:
            finder.add_others(compare_with)
        _finish(report, totals, finder.find())
    if compare_with is None:
        report.leak = None
    report.format, report.encoding, report.columns = rows.format, rows.encoding, rows.columns
    report.warnings, report.normalised = rows.findings.notes.to_list(), rows.findings.normalised.to_mapping()
    if not report.rows and not report.error_count:
        raise DatasetFormatError("The file has no rows.")
    return report


def _count_error(report: DatasetReport, row: RowError) -> None:
    report.error_count += 1
    report.broken_separator_count += row.reason == BROKEN_SEPARATOR
    if len(report.errors) < MAX_LISTED:
        report.errors.append({"row": row.row, "field": row.field, "reason": row.reason})


def _count(report: DatasetReport, totals: _Totals, row: Example) -> None:
    report.rows += 1
    totals.codes.update(row.codes)
    if len(totals.codes) > MAX_DISTINCT_CODES:
        raise DatasetFormatError(f"The file has more than {MAX_DISTINCT_CODES} distinct codes: is 'output' free text?")
    totals.categories.update({category_of(code) for code in row.codes})
    totals.slices.update(row.slices.keys())
    totals.chars += len(row.question)
    report.question_chars_max = max(report.question_chars_max, len(row.question))
    report.codes_per_answer_max = max(report.codes_per_answer_max, len(row.codes))


def _finish(report: DatasetReport, totals: _Totals, found: Repetition) -> None:
    codes = totals.codes
    report.is_check_passed = report.error_count == 0 and report.rows > 0
    report.distinct_codes, report.distinct_answers = len(codes), found.distinct_answers
    report.categories = dict(totals.categories.most_common())
    report.slices = dict(totals.slices)
    report.codes = [{"code": code, "rows": count} for code, count in codes.most_common(MAX_CODES_LISTED)]
    rare = [code for code, count in codes.items() if count < report.rare_code_rows]
    report.rare_code_count = len(rare)
    report.rare_codes = [{"code": code, "rows": codes[code]} for code in islice(rare, MAX_LISTED)]
    report.duplicate_question_count = found.duplicate_questions
    report.conflicting_question_count = found.conflicting_questions
    report.conflicting_rows = [{"row": row, "conflicts_with_row": first} for row, first in found.conflicting_rows]
    report.leak = {
        "row_count": found.leaked_rows,
        "rows": [{"row": row, "other_row": other} for row, other in found.leaked_pairs],
    }
    report.question_chars_mean = round(totals.chars / report.rows, 2) if report.rows else 0.0
