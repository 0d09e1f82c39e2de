"""Writes the same table in every format and encoding, for the tests of the readers."""

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import openpyxl

from app.ml.formats.columns import ColumnWish
from app.ml.formats.detection import ReadOptions
from app.ml.formats.example import Example, RowError
from app.ml.formats.reading import DatasetRows

Table = Sequence[tuple[str, ...]]
FORMATS = ("json", "jsonl", "chat", "csv", "tsv", "xlsx")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le-marked", "utf-16-be-marked", "gb18030")
HEADING = ("question", "answer")


def text_of(table: Table, kind: str, heading: Sequence[str] = HEADING) -> str:
    match kind:
        case "json":
            return json.dumps(alpaca(table), ensure_ascii=False, indent=1)
        case "jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in alpaca(table))
        case "chat":
            return "".join(chat_line(question, answer) for question, answer in table)
        case "csv" | "tsv":
            out = io.StringIO()
            writer = csv.writer(out, delimiter="," if kind == "csv" else "\t")
            writer.writerow(heading)
            writer.writerows(table)
            return out.getvalue()
    raise AssertionError(kind)


def alpaca(table: Table) -> list[dict[str, str]]:
    return [{"instruction": question, "input": "", "output": answer} for question, answer in table]


def chat_line(question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def encoded(text: str, encoding: str) -> bytes:
    match encoding:
        case "utf-16-le-marked":
            return b"\xff\xfe" + text.encode("utf-16-le")
        case "utf-16-be-marked":
            return b"\xfe\xff" + text.encode("utf-16-be")
    return text.encode(encoding)


def workbook_of(rows: Sequence[Sequence[object]], *, title: str = "Sheet1", more_sheets: Sequence[str] = ()) -> bytes:
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet(title)
    for row in rows:
        sheet.append(list(row))
    for name in more_sheets:
        book.create_sheet(name).append(["something else"])
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def bytes_of(table: Table, kind: str, encoding: str = "utf-8") -> bytes:
    if kind == "xlsx":
        return workbook_of([HEADING, *table])
    return encoded(text_of(table, kind), encoding)


@contextmanager
def file_of(data: bytes, name: str = "upload") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


def read(
    data: bytes, name: str = "upload", *, columns: ColumnWish | None = None, encoding: str | None = None, sheet: str | None = None
) -> tuple[list[Example | RowError], DatasetRows]:
    """Returns the rows of a file and what was noticed."""
    with file_of(data) as path:
        rows = DatasetRows(path, ReadOptions(name, columns or ColumnWish(), encoding, sheet))
        return list(rows), rows


def pairs(rows: Sequence[Example | RowError]) -> list[tuple[str, tuple[str, ...]]]:
    assert all(isinstance(row, Example) for row in rows), [row for row in rows if isinstance(row, RowError)][:3]
    return [(row.question, row.codes) for row in rows if isinstance(row, Example)]


def warnings_of(rows: DatasetRows) -> dict[str, int]:
    return {str(note["code"]): int(str(note["count"])) for note in rows.findings.notes.to_list()}
