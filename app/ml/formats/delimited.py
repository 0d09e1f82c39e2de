"""CSV and TSV: strict about quotes, every cell text (007 stays 007, NA stays NA), memory flat."""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

from app.ml.errors import DatasetFormatError
from app.ml.formats.columns import ColumnMapping, ColumnWish
from app.ml.formats.example import RawRow, RowError

DELIMITERS = {"csv": (",", ";", "\t"), "tsv": ("\t",)}
MAX_COLUMNS = 1_000
_MAX_LINE_CHARS = 1 << 20
_MAX_RECORD_LINES = 10_000
_MAX_HEADING_CHARS = 100
_MAX_BLANK_LINES = 100


class DelimitedTable:
    """A table of text whose heading has been read; iterate once for its rows.

    Raises (making it):
        DatasetFormatError: it has no heading, or a heading without question and answer.
    """

    def __init__(self, file: BinaryIO, kind: str, wish: ColumnWish) -> None:
        """`file` is UTF-8 that decodes to its end; `kind` is csv or tsv."""
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        start = _first_lines(text)
        delimiter = next((sign for sign in DELIMITERS[kind] if _resolves(start[-1], sign, wish)), DELIMITERS[kind][0])
        self._lines = _Lines(text, start)
        # Python's limit of 131,072 characters a field stays: a quote that is never closed stops there and not at the end.
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)
        self._row = 0
        headings = self._heading()
        self.headings = headings
        self.columns = resolve_columns(headings, wish, row=self._row)

    def __iter__(self) -> Iterator[RawRow | RowError]:
        """Yields the rows; the heading is row 1, blank rows count and are passed over."""
        headings = self.headings
        width = len(headings)
        while True:
            self._row += 1
            self._lines.in_record = 0
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                reason, goes_on = _reason(error)
                yield RowError(self._row, None, reason)
                if goes_on:
                    continue
                return
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > width and not any(cells[width:]):
                # A spreadsheet that once had more columns leaves empty cells behind.
                cells = cells[:width]
            if len(cells) != width:
                yield RowError(self._row, None, f"has {len(cells)} cells, but the heading has {width}")
                continue
            yield RawRow(self._row, dict(zip(headings, cells, strict=True)))

    def _heading(self) -> list[str]:
        while True:
            self._row += 1
            self._lines.in_record = 0
            try:
                cells = next(self._reader)
            except StopIteration:
                raise DatasetFormatError("The file is empty. Upload a table whose first row names its columns.") from None
            except csv.Error as error:
                raise DatasetFormatError(
                    f"Row {self._row}, the heading, {_reason(error)[0]}.", details={"row": self._row}
                ) from error
            if any(cell.strip() for cell in cells):
                return clean_headings(cells, row=self._row)


def clean_headings(cells: list[str], *, row: int) -> list[str]:
    """Returns a table's headings, stripped, without empty ones at the end.

    Raises:
        DatasetFormatError: there are too many.
    """
    headings = [cell.strip() for cell in cells]
    while headings and not headings[-1]:
        headings.pop()
    if len(headings) > MAX_COLUMNS:
        raise DatasetFormatError(f"The heading has {len(headings)} columns, more than {MAX_COLUMNS}.", details={"row": row})
    return headings


def resolve_columns(headings: list[str], wish: ColumnWish, *, row: int) -> ColumnMapping:
    """Finds question and answer among a table's headings.

    Raises:
        DatasetFormatError: one of them is missing, or a column that is used stands there twice.
    """
    columns = wish.resolve(headings)
    if columns is None or columns.messages is not None:
        shown = ", ".join(repr(heading[:_MAX_HEADING_CHARS]) for heading in headings[:20])
        raise DatasetFormatError(
            f"The heading (row {row}) names no question and answer: {shown}. Name them with the field "
            """'columns': {"question": "…", "answer": "…"}.""",
            param="columns",
            details={"row": row, "headings": [heading[:_MAX_HEADING_CHARS] for heading in headings[:20]]},
        )
    for name in (columns.question, columns.answer, columns.input, *columns.slices.values()):
        if name is not None and headings.count(name) > 1:
            raise DatasetFormatError(f"The heading has the column {name!r} twice.", param="columns", details={"row": row})
    return columns


def looks_delimited(start: str, kind: str, wish: ColumnWish) -> bool:
    """Says whether a file's first lines are a heading with question and answer."""
    return any(_resolves(start, sign, wish) for sign in DELIMITERS[kind])


class _Lines:
    """The lines of a text, none of them longer than a record may be."""

    def __init__(self, text: io.TextIOWrapper, start: list[str]) -> None:
        """`start` was read from `text` before."""
        self._text = text
        self._start = start
        self.in_record = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._start.pop(0) if self._start else self._text.readline(_MAX_LINE_CHARS)
        if not line:
            raise StopIteration
        self.in_record += 1
        if len(line) >= _MAX_LINE_CHARS or self.in_record > _MAX_RECORD_LINES:
            raise csv.Error("field larger than field limit")
        return line


def _first_lines(text: io.TextIOWrapper) -> list[str]:
    """Returns the lines up to the first that is not blank: the heading's, by which the delimiter is found."""
    lines = [text.readline(_MAX_LINE_CHARS)]
    while lines[-1] and not lines[-1].strip() and len(lines) < _MAX_BLANK_LINES:
        lines.append(text.readline(_MAX_LINE_CHARS))
    return lines


def _resolves(start: str, delimiter: str, wish: ColumnWish) -> bool:
    try:
        cells = next(csv.reader([start], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return False
    return wish.resolve([cell.strip() for cell in cells]) is not None


def _reason(error: csv.Error) -> tuple[str, bool]:
    """Returns the reason in words, and whether the next row can be found."""
    text = str(error)
    if "unexpected end" in text:
        return "opens a quote that is never closed", False
    if "field limit" in text:
        return "has a field of more than 131072 characters: is a quote never closed?", False
    if "expected after" in text:
        return "has text after a closing quote; a quote inside a field must be doubled", True
    return f"cannot be read: {text}", True
