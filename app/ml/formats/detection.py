"""Which format a file has: its first bytes, then its name, then its first line."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from app.ml.errors import DatasetFormatError
from app.ml.formats.alpaca import first_byte
from app.ml.formats.columns import ColumnWish
from app.ml.formats.delimited import looks_delimited
from app.ml.formats.encoding import TextEncoding, detect_encoding, open_as_utf8

_XLSX = b"PK\x03\x04"
_LINE_BYTES = 1 << 16
# First bytes of what people upload by mistake -> what to say.
_FOREIGN = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstandard archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"PK\x05\x06": "an empty ZIP archive",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old .xls file or an encrypted workbook",
    b"%PDF-": "a PDF",
    b"PAR1": "a Parquet file",
}
_DELIMITED_NAMES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
_JSON_NAMES = {".json", ".jsonl", ".ndjson"}
_WORKBOOK_NAMES = {".xlsx", ".xlsm"}


class Container(StrEnum):
    """How rows lie in a file."""

    ARRAY = "json"
    LINES = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    XLSX = "xlsx"


@dataclass(frozen=True)
class ReadOptions:
    """What the user says of a file; all of it may be missing."""

    filename: str | None = None
    """The client's name of the file: only its ending counts. None: the name on disk."""
    columns: ColumnWish = field(default_factory=ColumnWish)
    encoding: str | None = None
    sheet: str | None = None
    is_verbatim: bool = False
    """Answers are not normalised: for files that were stored before there was any normalisation."""


def detect_container(path: Path, options: ReadOptions) -> tuple[Container, TextEncoding | None]:
    """Returns how rows lie in a file, and the encoding of a text file.

    Raises:
        DatasetFormatError: the file is empty, compressed, of another kind, or contradicts its given encoding.
    """
    with path.open("rb") as file:
        start = file.read(16)
    ending = Path(options.filename or path.name).suffix.lower()
    if start.startswith(_XLSX):
        return Container.XLSX, None
    for mark, kind in _FOREIGN.items():
        if start.startswith(mark):
            raise DatasetFormatError(
                f"The file is {kind}. Upload the dataset itself, not compressed: JSON, JSONL, CSV, TSV or XLSX."
            )
    if ending in _WORKBOOK_NAMES and start:
        raise DatasetFormatError("The file is called a workbook but is none. Save it as XLSX, or as CSV with the ending .csv.")
    encoding = detect_encoding(path, asked=options.encoding)
    with open_as_utf8(path, encoding) as file:
        first = first_byte(file)
    if not first:
        raise DatasetFormatError("The file is empty. Upload a JSON array of rows, or one JSON object a line.")
    if ending in _DELIMITED_NAMES:
        return Container(_DELIMITED_NAMES[ending]), encoding
    if first == b"[":
        return Container.ARRAY, encoding
    if first != b"{" and ending not in _JSON_NAMES:
        heading = _first_line(path, encoding)
        for kind in (Container.TSV, Container.CSV):
            if looks_delimited(heading, kind, options.columns):
                return kind, encoding
    return Container.LINES, encoding


def _first_line(path: Path, encoding: TextEncoding) -> str:
    with open_as_utf8(path, encoding) as file:
        while line := file.readline(_LINE_BYTES):
            if text := line.decode("utf-8", "ignore").strip():
                return text
    return ""
