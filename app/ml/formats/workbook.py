"""XLSX, read by calamine after the archive was found harmless.

calamine holds the whole sheet in memory, as a dense table from its first to its last cell. So before it sees the file,
every entry is inflated once, in pieces: its true size and the outermost cell decide whether the file is read at all.
"""

import datetime
import math
import re
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from python_calamine import CalamineSheet, CalamineWorkbook, SheetTypeEnum

from app.errors import AppError, InvalidInput
from app.ml.errors import DatasetFormatError
from app.ml.formats.columns import ColumnWish
from app.ml.formats.delimited import clean_headings, resolve_columns
from app.ml.formats.example import Findings, RawRow, RowError

MAX_ENTRIES = 2_000
MAX_INFLATED_BYTES = 512 * 1024 * 1024
MAX_RATIO = 200
"""Inflated to packed bytes; judged from 16 MiB on, because a small table of equal rows packs that well by itself."""
MAX_CELLS = 12_000_000
"""Of the dense table; 12 columns of a full sheet."""
MAX_SHARED_BYTES = 512 * 1024 * 1024
"""Of the texts that cells share, counted once for each cell that may name one: calamine copies them into each."""
_RATIO_FROM_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1 << 18
_PART = "xl/workbook.xml"
_REFERENCE = re.compile(rb"""[\s"']r\s*=\s*["']\s*([A-Za-z]{0,9})(\d{1,20})""")
_ROW_TAG = re.compile(rb"<(?:\w{1,20}:)?row[\s/>]")
_SHARED_PART = "xl/sharedstrings.xml"
_SHARED_TAG = re.compile(rb"<(?:\w{1,20}:)?si[\s/>]")
# Any whole number between tags may be the index of a shared text, also one that is written as CDATA.
_INDEX = re.compile(rb"[>\[]\s*(\d{1,9})\s*[\]<]")
_CHARACTER_REFERENCE = re.compile(rb"&#")
_CELL_TAG = re.compile(rb"<(?:\w{1,20}:)?c[\s/>]")
_MAX_SHEET_ROWS, _MAX_SHEET_COLUMNS = 1_048_576, 16_384


class Workbook:
    """A sheet whose heading has been read; iterate once for its rows.

    Raises (making it):
        DatasetFormatError: it is no XLSX, is too large when inflated, or has no heading with question and answer.
        InvalidInput: it has no sheet of the name asked for.
    """

    def __init__(self, path: Path, wish: ColumnWish, *, sheet: str | None, findings: Findings) -> None:
        check_archive(path)
        self._findings = findings
        self._cells = _rows_of(_open_sheet(path, sheet, findings))
        for row, cells in self._cells:
            texts = [text_of_cell(cell) or "" for cell in cells]
            if any(text.strip() for text in texts):
                heading_row = row
                break
        else:
            raise DatasetFormatError("The sheet is empty. Its first row must name its columns.")
        self.headings = clean_headings(texts, row=heading_row)
        self.columns = resolve_columns(self.headings, wish, row=heading_row)

    def __iter__(self) -> Iterator[RawRow | RowError]:
        """Yields the rows, numbered as the spreadsheet numbers them; blank rows are passed over."""
        used = {self.columns.question, self.columns.answer, self.columns.input, *self.columns.slices.values()}
        for row, cells in self._cells:
            if not any(cell.strip() if isinstance(cell, str) else True for cell in cells):
                continue
            yield self._raw(row, cells, used)

    def _raw(self, row: int, cells: list[object], used: set[str | None]) -> RawRow | RowError:
        fields: dict[str, object] = {}
        for heading, cell in zip(self.headings, cells, strict=False):
            if heading not in used:
                continue
            text = text_of_cell(cell)
            if text is None:
                return RowError(row, heading, f"holds a {type(cell).__name__}: format the column as text and type it again")
            if isinstance(cell, float | int) and not isinstance(cell, bool):
                self._findings.notes.add("number_was_no_text", row)
            fields[heading] = text
        return RawRow(row, fields)


def text_of_cell(cell: object) -> str | None:
    """Returns a cell's text as a spreadsheet shows it in the format General: 30.0 is `30`; None for dates and times."""
    match cell:
        case str():
            return cell
        case bool():
            return "TRUE" if cell else "FALSE"
        case int():
            return str(cell)
        case float() if math.isfinite(cell):
            # 15 digits, as spreadsheets count: 0.1 + 0.2 is 0.3.
            return format(Decimal(f"{cell:.15g}"), "f")
        case float():
            return str(cell)
        case datetime.date() | datetime.time() | datetime.timedelta():
            return None
    return str(cell)


def check_archive(path: Path) -> None:
    """Inflates every entry once, in pieces, and refuses what would fill the memory.

    Raises:
        DatasetFormatError: the archive is broken, no XLSX, encrypted, or too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES:
                raise DatasetFormatError(f"The workbook has {len(entries)} parts, more than {MAX_ENTRIES}.")
            names = {entry.filename.lower() for entry in entries}
            if _PART not in names:
                raise DatasetFormatError(
                    "The file is a ZIP archive and no XLSX workbook. Upload the dataset itself, not compressed."
                )
            _inflate(archive, entries, packed_bytes=path.stat().st_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DatasetFormatError(f"The workbook is broken: {str(error)[:200]}. Save it again as XLSX.") from error


def _inflate(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], *, packed_bytes: int) -> None:
    # The sizes that the archive states may lie; zipfile fails on an entry that is longer than stated.
    total = 0
    shared = _SharedTexts()
    # The shared texts first: only then is it known what the cells of the sheets ask for.
    for entry in sorted(entries, key=lambda entry: entry.filename.lower() != _SHARED_PART):
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetFormatError("The workbook is compressed in a way that XLSX does not use. Save it again as XLSX.")
        name = entry.filename.lower()
        extent = _Extent(shared) if name.startswith("xl/worksheets/") else None
        with archive.open(entry) as part:
            while chunk := part.read(_CHUNK_BYTES):
                total += len(chunk)
                _refuse_bomb(total, packed_bytes)
                if extent is not None:
                    extent.look(chunk)
                elif name == _SHARED_PART:
                    shared.look(chunk)
        if extent is not None:
            extent.look(b"")
        elif name == _SHARED_PART:
            shared.end()


class _SharedTexts:
    """How long the texts are that cells share, and how much of them the cells of all sheets ask for."""

    def __init__(self) -> None:
        self._rest = b""
        self._lengths = array("L")
        self._begun = 0
        self._asked_bytes = 0
        self._longest = 0

    def look(self, chunk: bytes) -> None:
        """Goes over the next piece of the shared texts; their length is that of their XML, which is no less."""
        window = self._rest + chunk
        end = max(window.rfind(b"<"), 0)
        self._rest = window[end:]
        first, *begun = _SHARED_TAG.split(window[:end])
        self._begun += len(first)
        for text in begun:
            self._lengths.append(self._begun)
            self._begun = len(text)

    def end(self) -> None:
        """Takes the last text in."""
        self._lengths.append(self._begun + len(self._rest))
        # What stood before the first text is none.
        del self._lengths[:1]
        self._longest = max(self._lengths, default=0)

    def ask(self, window: bytes) -> None:
        """Counts what the cells of a piece of a sheet ask for.

        Raises:
            DatasetFormatError: it is too much.
        """
        if not self._lengths:
            return
        for index, count in Counter(_INDEX.findall(window)).items():
            if int(index) < len(self._lengths):
                self._asked_bytes += count * self._lengths[int(index)]
        self._asked_bytes += self._longest * len(_CHARACTER_REFERENCE.findall(window))
        if self._asked_bytes > MAX_SHARED_BYTES:
            raise DatasetFormatError(
                f"The texts that the workbook's cells share grow to more than {MAX_SHARED_BYTES >> 20} MiB. "
                "Delete the columns that are not needed, or save it as CSV."
            )


class _Extent:
    """How far a sheet reaches: at least as far as calamine would think, judged from the bytes of its XML."""

    def __init__(self, shared: _SharedTexts) -> None:
        self._shared = shared
        self._rest = b""
        self._rows = self._columns = 1
        self._row_tags = self._cells_in_row = 0

    def look(self, chunk: bytes) -> None:
        """Goes over the next piece, up to its last tag, which may be cut.

        Raises:
            DatasetFormatError: the sheet reaches too far.
        """
        window = self._rest + chunk
        end = window.rfind(b"<") if chunk else len(window)
        self._rest = window[max(end, 0) :]
        # With the sign that ends a cell's number.
        self._shared.ask(window[: max(end, 0) + 1])
        window = window[: max(end, 0)]
        if references := _REFERENCE.findall(window):
            self._rows = max(self._rows, int(max((digits for _, digits in references), key=int)))
            self._columns = max(self._columns, *(_column_number(letters) for letters in {one for one, _ in references}))
        # References are optional: without them calamine counts rows and cells.
        for number, row in enumerate(_ROW_TAG.split(window)):
            if number:
                self._row_tags += 1
                self._cells_in_row = 0
            self._cells_in_row += len(_CELL_TAG.findall(row))
            self._columns = max(self._columns, self._cells_in_row)
        self._rows = max(self._rows, self._row_tags)
        cells = self._rows * self._columns
        if self._rows > _MAX_SHEET_ROWS or self._columns > _MAX_SHEET_COLUMNS or cells > MAX_CELLS:
            raise DatasetFormatError(
                f"The sheet reaches to row {self._rows} and column {self._columns}: {cells} cells, more than {MAX_CELLS}. "
                "Delete the empty rows and columns, or save it as CSV."
            )


def _refuse_bomb(inflated_bytes: int, packed_bytes: int) -> None:
    is_bomb = inflated_bytes > _RATIO_FROM_BYTES and inflated_bytes > MAX_RATIO * packed_bytes
    if is_bomb or inflated_bytes > MAX_INFLATED_BYTES:
        raise DatasetFormatError(
            f"The workbook grows to more than {inflated_bytes >> 20} MiB when it is unpacked. Save it as CSV and upload that."
        )


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number


def _open_sheet(path: Path, name: str | None, findings: Findings) -> CalamineSheet:
    try:
        workbook = CalamineWorkbook.from_path(path)
        names = [one.name for one in workbook.sheets_metadata if one.typ == SheetTypeEnum.WorkSheet]
        if name is not None and name not in names:
            known = ", ".join(repr(one[:100]) for one in names[:20])
            raise InvalidInput(f"The workbook has no sheet {name[:100]!r}. It has: {known}.", param="sheet")
        if not names:
            raise DatasetFormatError("The workbook has no sheet with cells.")
        if name is None and len(names) > 1:
            findings.notes.add("other_sheets_ignored")
        return workbook.get_sheet_by_name(names[0] if name is None else name)
    except (AppError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # BaseException: a panic of calamine's Rust code is one.
        raise _unreadable(error) from error


def _rows_of(sheet: CalamineSheet) -> Iterator[tuple[int, list[object]]]:
    try:
        for row, cells in enumerate(sheet.iter_rows(), start=1):
            yield row, list(cells)
    except (GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise _unreadable(error) from error


def _unreadable(error: BaseException) -> DatasetFormatError:
    return DatasetFormatError(f"The workbook cannot be read: {str(error)[:200]}. Save it again as XLSX.")
