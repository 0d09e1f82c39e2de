"""The code book as a table: a header line that names code, category and text, in English or Chinese, then one code a row.

CSV is read as UTF-8 or GBK (as GB 18030). Reading takes the apostrophe away again that keeps a cell from being a formula.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from app.codebook.entries import Entry, GivenRow, InvalidCodebook
from app.ml.formats.formula_cells import guarded, unguarded

FIELDS = ("code", "category", "text")
_FIELD_OF_HEADER = {
    "code": "code",
    "代码": "code",
    "编码": "code",
    "category": "category",
    "类别": "category",
    "text": "text",
    "文本": "text",
    "话术": "text",
}


def rows_of_csv(body: bytes) -> Iterator[GivenRow]:
    """Yields the rows of a CSV file, row 1 being its header.

    Raises:
        InvalidCodebook: it is neither UTF-8 nor GBK, is no CSV, or its header is not ours.
    """
    lines = csv.reader(io.StringIO(_decoded(body), newline=""), strict=True)

    def cells() -> Iterator[list[str]]:
        number = 0
        try:
            for line in lines:
                yield [unguarded(cell) for cell in line]
                number += 1
        except csv.Error as error:
            raise InvalidCodebook(f"Row {number + 1} is no CSV: {error}.", details={"row": number + 1}) from error

    yield from rows_of_cells(cells())


def rows_of_cells(lines: Iterable[Sequence[str]]) -> Iterator[GivenRow]:
    """Yields the rows under a header line; rows without any content are passed over.

    Raises:
        InvalidCodebook: the header names an unknown column or a column twice, or has no code; or a row has cells beyond it.
    """
    iterator = iter(lines)
    columns = _columns(next(iterator, []))
    for row, line in enumerate(iterator, start=2):
        if not any(cell.strip() for cell in line):
            continue
        if any(cell.strip() for place, cell in enumerate(line) if place not in columns):
            raise InvalidCodebook(f"Row {row} has a cell in a column without a name.", details={"row": row})
        values = {field: line[place] for place, field in columns.items() if place < len(line)}
        yield GivenRow(row, values.get("code", ""), values.get("category"), values.get("text"))


def to_csv(entries: Iterable[Entry]) -> bytes:
    """Returns the table as UTF-8 with a byte order mark, without which Excel shows no Chinese."""
    target = io.StringIO(newline="")
    writer = csv.writer(target)
    writer.writerow(FIELDS)
    for entry in entries:
        writer.writerow([guarded(entry.code), guarded(entry.category or ""), guarded(entry.text or "")])
    return target.getvalue().encode("utf-8-sig")


def _columns(header: Sequence[str]) -> dict[int, str]:
    columns: dict[int, str] = {}
    for place, cell in enumerate(header):
        name = cell.strip()
        if not name:
            continue
        field = _FIELD_OF_HEADER.get(name.casefold())
        if field is None:
            raise InvalidCodebook(
                f"Row 1 has a column {name[:50]!r}. The columns are code, category and text (代码, 类别, 文本).",
                param=name[:50],
                details={"row": 1},
            )
        if field in columns.values():
            raise InvalidCodebook(f"Row 1 names the column {field} twice.", param=field, details={"row": 1})
        columns[place] = field
    if "code" not in columns.values():
        raise InvalidCodebook(
            "Row 1 has no column named code (代码, 编码). The first row names the columns.", param="code", details={"row": 1}
        )
    return columns


def _decoded(body: bytes) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return body.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InvalidCodebook("The CSV is neither UTF-8 nor GBK. Save it as UTF-8.")
