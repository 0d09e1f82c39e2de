"""Archives, bombs, and workbooks that are none or too much."""

import gzip
import io
import zipfile
from collections.abc import Iterator
from functools import partial

from tests.app.ml.formats.tables import HEADING, Table, workbook_of
from tests.malformed.forms import upload
from tests.malformed.malformed_request import MalformedRequest, dice_of

_TABLE: Table = [("百度流量月包怎么取消", "取消方式_12"), ("怎么开通彩铃", "开通方式_98|开通方式_97")]
_MEGABYTE = 1 << 20


def archives_and_workbooks() -> Iterator[MalformedRequest]:
    """Yields every one as an upload."""
    yield from _archives()
    yield from _workbooks()


def _zip(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def _archives() -> Iterator[MalformedRequest]:
    rows = "question,answer\n怎么取消,取消方式_12\n".encode()
    zeros = b"\x00" * (20 * _MEGABYTE)
    made = {
        "gzip": gzip.compress(rows, mtime=0),
        "gzip bomb": gzip.compress(zeros, mtime=0),
        "gzip in gzip": gzip.compress(gzip.compress(zeros, mtime=0), mtime=0),
        "zip": _zip({"a.csv": rows}),
        "zip bomb": _zip({"a.csv": zeros}),
        "zip in zip": _zip({"a.zip": _zip({"b.zip": _zip({"c.csv": zeros})})}),
        "zip of 5,000 entries": _zip({f"{n}.csv": b"" for n in range(5_000)}),
        "zip with a path": _zip({"../../etc/cron.d/x": rows}),
        "empty zip": _zip({}),
        "bzip2": b"BZh91AY&SY" + rows,
        "xz": b"\xfd7zXZ\x00" + rows,
        "zstandard": b"\x28\xb5\x2f\xfd" + rows,
        "7z": b"7z\xbc\xaf\x27\x1c" + rows,
        "rar": b"Rar!\x1a\x07\x00" + rows,
        "old workbook": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600,
        "pdf": b"%PDF-1.7\n" + rows,
        "parquet": b"PAR1" + b"\x00" * 100,
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "executable": b"\x7fELF" + b"\x01" * 100,
        "picture": b"\x89PNG\r\n\x1a\n" + b"\x00" * 100,
        "page": b"<!doctype html><script>alert(1)</script>",
    }
    for name, data in made.items():
        for filename in ("a.csv", "a.json", "a.xlsx", "upload"):
            yield upload("archives and bombs", f"{name} as {filename}", data, filename=filename)


def _rewritten(change: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(workbook_of([HEADING, *_TABLE]))) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    return _zip(parts | change)


def _sheet(inner: bytes) -> bytes:
    start = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    return start + inner + b"</worksheet>"


def _workbooks() -> Iterator[MalformedRequest]:
    name = "xl/worksheets/sheet1.xml"
    entity = b'<!DOCTYPE a [<!ENTITY a0 "x">' + b"".join(
        b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 10)
    )
    cells = b"<row>" + b'<c t="s"><v>0</v></c>' * 2 + b"</row>"
    shared = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>%s</t></si></sst>'
    changes: dict[str, dict[str, bytes]] = {
        "no sheet": {name: b""},
        "a sheet that is no XML": {name: b"not XML"},
        "a sheet cut": {name: _sheet(b"<sheetData><row><c>")[:-20]},
        "an empty sheet": {name: _sheet(b"<sheetData/>")},
        "the last cell of all": {name: _sheet(b'<sheetData><row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>')},
        "a row beyond the last": {name: _sheet(b'<sheetData><row r="99999999999"><c><v>1</v></c></row></sheetData>')},
        "a row of 5,000 digits": {name: _sheet(b'<sheetData><row r="%s"><c/></row></sheetData>' % (b"9" * 5_000))},
        "20,000 cells in a row": {name: _sheet(b"<sheetData><row>" + b"<c/>" * 20_000 + b"</row></sheetData>")},
        "a huge dimension": {name: _sheet(b'<dimension ref="A1:XFD1048576"/><sheetData/>')},
        "a dimension that is none": {name: _sheet(b'<dimension ref="nonsense"/><sheetData/>')},
        "a shared text that is not there": {name: _sheet(b'<sheetData><row><c t="s"><v>999999</v></c></row></sheetData>')},
        "a huge shared text": {
            "xl/sharedStrings.xml": shared % (b"a" * (40 * _MEGABYTE)),
            name: _sheet(b"<sheetData>" + cells + b"</sheetData>"),
        },
        "a shared text 50,000 times": {
            "xl/sharedStrings.xml": shared % (b"a" * 30_000),
            name: _sheet(b"<sheetData>" + cells * 25_000 + b"</sheetData>"),
        },
        "a dimension of entities": {name: entity + b"]>" + _sheet(b"<sheetData><row><c><v>&a9;</v></c></row></sheetData>")},
        "an outside entity": {
            name: b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
            + _sheet(b"<sheetData><row><c><v>&x;</v></c></row></sheetData>")
        },
        "a picture of zeros": {"xl/media/zeros.bin": b"\x00" * (20 * _MEGABYTE)},
        "a workbook in the workbook": {name: workbook_of([HEADING])},
        "2,000 parts": {f"xl/{n}": b"" for n in range(2_000)},
        "no list of sheets": {"xl/workbook.xml": b"<workbook/>"},
        "a list of sheets that is no XML": {"xl/workbook.xml": b"\x00\x01"},
    }
    for what, change in changes.items():
        for filename in ("a.xlsx", "a.csv"):
            yield upload("workbooks", f"{what} as {filename}", partial(_rewritten, change), filename=filename)
    tables: dict[str, list[list[object]]] = {
        "3,000 columns": [[f"c{n}" for n in range(3_000)], ["x"] * 3_000],
        "no answer": [["question", "note"], ["q", "n"]],
        "only a heading": [list(HEADING)],
        "an answer twice": [["question", "answer", "answer"], ["q", "a_1", "a_2"]],
        "an empty question": [list(HEADING), ["", "a_1"]],
        "an empty answer": [list(HEADING), ["q", None]],
        "a broken answer": [list(HEADING), ["q", "a_1||a_2"]],
    }
    for what, rows in tables.items():
        yield upload("workbooks", what, partial(workbook_of, rows), filename="a.xlsx")
    yield upload("workbooks", "no such sheet", workbook_of([HEADING, *_TABLE]), filename="a.xlsx", sheet="Nobody")
    data = bytearray(workbook_of([HEADING, *_TABLE]))
    dice = dice_of("workbooks")
    for number in range(60):
        place = dice.randrange(len(data) // 2)
        spoiled = data[:place] + dice.randbytes(64) + data[place + 64 :]
        yield upload("workbooks", f"64 random bytes, {number}", bytes(spoiled), filename="a.xlsx")
