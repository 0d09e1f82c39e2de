"""Reads a dataset file of any format row by row. Memory stays flat, except for XLSX (see `app.ml.formats.workbook`)."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from app.ml.errors import DatasetFormatError
from app.ml.formats.alpaca import MAX_LINE_BYTES, read_array, read_lines
from app.ml.formats.canonical import is_canonical, read_canonical
from app.ml.formats.chat import example_from_chat
from app.ml.formats.columns import ColumnMapping
from app.ml.formats.delimited import DelimitedTable
from app.ml.formats.detection import Container, ReadOptions, detect_container
from app.ml.formats.encoding import open_as_utf8, refuse_broken_text
from app.ml.formats.example import Example, Findings, RawRow, RowError, example_from_fields
from app.ml.formats.workbook import Workbook

__all__ = ["MAX_LINE_BYTES", "DatasetRows", "iterate_examples", "read_examples", "read_rows"]


class DatasetRows:
    """The rows of one file; iterate once, then `format`, `columns` and `findings` say how they were read."""

    def __init__(self, path: Path, options: ReadOptions | None = None) -> None:
        """Finds container and encoding.

        Raises:
            InvalidInput: an option is wrong.
            DatasetFormatError: the file is empty, compressed, or contradicts its given encoding.
        """
        self._path = path
        self._options = options or ReadOptions()
        self.findings = Findings()
        self._container, self._encoding = detect_container(path, self._options)
        self._columns: ColumnMapping | None = None
        self._headings: list[str] | None = None
        if self._encoding is not None and self._encoding.detected:
            self.findings.notes.add("encoding_detected")

    @property
    def format(self) -> str:
        """`alpaca` or `chat` (an array or lines), `csv`, `tsv` or `xlsx`."""
        if self._container not in (Container.ARRAY, Container.LINES):
            return self._container.value
        is_chat = self._columns is not None and self._columns.messages is not None
        return "chat" if is_chat else "alpaca"

    @property
    def encoding(self) -> str | None:
        """The encoding that was read; None for a workbook."""
        return self._encoding.name if self._encoding is not None else None

    @property
    def columns(self) -> dict[str, object]:
        """Which columns were used, for the report."""
        columns = self._columns or self._options.columns.fallback()
        return columns.to_mapping(present=self._headings)

    def __iter__(self) -> Iterator[Example | RowError]:
        """Yields each row as an example or the reason why it is none.

        Raises:
            InvalidInput: the workbook has no such sheet.
            DatasetFormatError: the file is broken so that no further row can be found, or its heading cannot be used.
        """
        if self._container is Container.XLSX:
            workbook = Workbook(self._path, self._options.columns, sheet=self._options.sheet, findings=self.findings)
            yield from self._table_rows(workbook)
            return
        assert self._encoding is not None
        with open_as_utf8(self._path, self._encoding) as file:
            if self._container is Container.ARRAY:
                yield from self._json_rows(read_array(file))
            elif self._container is Container.LINES:
                yield from self._json_rows(read_lines(file))
            else:
                refuse_broken_text(self._encoding)
                yield from self._table_rows(DelimitedTable(file, self._container, self._options.columns))

    def _table_rows(self, table: DelimitedTable | Workbook) -> Iterator[Example | RowError]:
        self._columns, self._headings = table.columns, table.headings
        for raw in table:
            yield raw if isinstance(raw, RowError) else self._example(raw, table.columns)

    def _json_rows(self, rows: Iterable[RawRow | RowError]) -> Iterator[Example | RowError]:
        wish = self._options.columns
        fallback = wish.fallback()
        seen: set[str] = set()
        for raw in rows:
            if isinstance(raw, RowError):
                yield raw
                continue
            if self._columns is None:
                # Until a row has the fields of a known form, rows are judged as Alpaca's.
                self._columns = wish.resolve(raw.fields, may_lack_input=True)
            columns = self._columns or fallback
            if len(seen) < len(columns.slices):
                seen.update(name for name in columns.slices.values() if name in raw.fields)
                self._headings = [columns.question, columns.answer, columns.input or "", *seen]
            yield self._example(raw, columns)

    def _example(self, raw: RawRow, columns: ColumnMapping) -> Example | RowError:
        findings = None if self._options.is_verbatim else self.findings
        if columns.messages is not None:
            return example_from_chat(raw.row, raw.fields, columns, findings=findings)
        return example_from_fields(raw.row, raw.fields, columns, findings=findings)


def read_rows(path: Path, options: ReadOptions | None = None) -> Iterator[Example | RowError]:
    """Yields each row of a file as an example or the reason why it is none.

    Raises:
        InvalidInput: an option is wrong.
        DatasetFormatError: the file is empty, or is broken so that no further row can be found.
    """
    yield from DatasetRows(path, options)


def read_examples(path: Path) -> list[Example]:
    """Reads a file that was validated at upload: its canonical rows, or (kept from before there were any) the file itself.

    Raises:
        DatasetFormatError: a row is broken after all.
    """
    return list(iterate_examples(path))


def iterate_examples(path: Path) -> Iterator[Example]:
    """Yields what `read_examples` returns.

    Raises:
        DatasetFormatError: a row is broken after all.
    """
    if is_canonical(path):
        yield from read_canonical(path)
        return
    for row in read_rows(path, ReadOptions(is_verbatim=True)):
        if isinstance(row, RowError):
            raise DatasetFormatError(f"Row {row.row}: {row.field or 'row'} {row.reason}.", param=row.field)
        yield row
