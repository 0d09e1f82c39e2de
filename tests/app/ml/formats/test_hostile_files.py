"""Malformed and hostile files: an error that says where, or the right rows; never another exception, nothing left behind."""

import gzip
import io
import random
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from app.errors import AppError, InvalidInput
from app.ml.errors import DatasetFormatError
from app.ml.formats import spilling, workbook
from app.ml.formats.detection import ReadOptions
from app.ml.formats.example import Example, RowError
from app.ml.formats.report import check_dataset
from tests.app.ml.formats.tables import ENCODINGS, FORMATS, Table, bytes_of, file_of, read, workbook_of

GOOD: Table = [("百度流量月包怎么取消", "取消方式_12"), ('他说"好",\n对吗', "业务简介_111|9.9"), ("怎么开通", "开通方式_98")]
FILES = 300
NAMES = {"json": "a.json", "jsonl": "a.jsonl", "chat": "c.jsonl", "csv": "a.csv", "tsv": "a.tsv", "xlsx": "a.xlsx"}
SNIPPETS = [b'"', b"\x00", b"\xff", b"\n", b"\r", b",", b"\t", b"|", b"||", b"[", b"}", b"\\u", b"\\ud800", b"\xef\xbb\xbf"]
SNIPPETS += [b"9" * 5000, b'"' * 3, b"\xe4", b"\x80", b"<c/>", b"PK\x03\x04"]


def spoiled(data: bytes, dice: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(content) + 1)
        match dice.randrange(4):
            case 0:
                content[place : place + dice.randint(1, 8)] = b""
            case 1:
                content[place:place] = dice.choice(SNIPPETS)
            case 2:
                content[place : place + 1] = dice.randbytes(1)
            case _:
                del content[place:]
    return bytes(content)


@pytest.mark.parametrize("kind", FORMATS)
def test_spoiled_files_give_rows_or_an_error_that_says_where(kind: str) -> None:
    dice = random.Random(kind)
    failures = 0
    for _ in range(FILES):
        data = spoiled(bytes_of(GOOD, kind, dice.choice(ENCODINGS)), dice)
        name = dice.choice([NAMES[kind], NAMES[kind], "upload", "a.txt"])
        with file_of(data) as path:
            try:
                report = check_dataset(path, ReadOptions(name), rows_to=path.with_name("rows"))
            except DatasetFormatError as error:
                failures += 1
                assert error.message
            else:
                assert report.rows + report.error_count > 0
                assert report.is_check_passed or report.errors[0]["row"]
            assert {one.name for one in path.parent.iterdir()} <= {"upload", "rows"}
    assert failures > FILES // 20


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.xlsx", "a.json", "a.txt"])
def test_random_bytes_are_no_dataset(name: str) -> None:
    dice = random.Random(name)
    for size in range(60):
        with file_of(dice.randbytes(size * 3)) as path:
            try:
                assert not check_dataset(path, ReadOptions(name)).is_check_passed
            except DatasetFormatError:
                continue


@pytest.mark.parametrize("kind", FORMATS)
def test_one_bad_row_anywhere_leaves_the_others_as_they_were(kind: str) -> None:
    for place in range(4):
        table = [*GOOD[:place], ("问题", "a||b"), *GOOD[place:]]
        rows, _ = read(bytes_of(table, kind), NAMES[kind])
        errors = [row for row in rows if isinstance(row, RowError)]
        first = 1 if kind in ("json", "jsonl", "chat") else 2
        assert [error.row for error in errors] == [place + first]
        assert [row.question for row in rows if isinstance(row, Example)] == [question for question, _ in GOOD]


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b"x" * 100, mtime=0),
        b"BZh91AY",
        b"\xfd7zXZ\x00aa",
        b"\x28\xb5\x2f\xfd00",
        b"7z\xbc\xaf\x27\x1c",
        b"Rar!\x1a\x07\x00",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600,
        b"%PDF-1.7",
        b"PAR1",
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "upload"])
def test_archives_and_foreign_files_are_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(DatasetFormatError, match=r"The file is an?\b"):
        read(data, name)


def archive(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return out.getvalue()


def rewritten(change: dict[str, bytes]) -> bytes:
    parts: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(workbook_of([["question", "answer"], ["q", "a"]]))) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    return archive(parts | change)


def test_a_zip_archive_that_is_no_workbook_is_refused() -> None:
    with pytest.raises(DatasetFormatError, match="no XLSX workbook"):
        read(archive({"a.csv": b"question,answer\n"}), "a.zip")


def test_a_bomb_is_refused_before_calamine_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbook, "CalamineWorkbook", None)
    with pytest.raises(DatasetFormatError, match="when it is unpacked"):
        read(rewritten({"xl/media/zeros.bin": b"\x00" * (20 << 20)}), "a.xlsx")


def test_a_workbook_of_too_many_parts_is_refused() -> None:
    with pytest.raises(DatasetFormatError, match="parts"):
        read(rewritten({f"xl/{number}": b"" for number in range(workbook.MAX_ENTRIES)}), "a.xlsx")


def sheet(inner: bytes) -> bytes:
    return rewritten(
        {
            "xl/worksheets/sheet1.xml": b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
            b"<sheetData>" + inner + b"</sheetData></worksheet>"
        }
    )


@pytest.mark.parametrize(
    "inner",
    [
        b'<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>',
        b"<row r='1'><c r = 'A1'><v>1</v></c></row><row><c\nr='ZZ900000'><v>1</v></c></row>",
        b'<row r="99999999999"><c><v>1</v></c></row>',
        b'<row r="1000000">' + b"<c><v>1</v></c>" * 1000 + b"</row>",
        b'<x:row r="1"><x:c r="AAAAAA1"/></x:row>',
        b'<row r="1">' + b"<c/>" * 20_000 + b"</row>",
    ],
)
def test_a_sheet_that_would_be_huge_as_a_dense_table_is_refused(inner: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbook, "CalamineWorkbook", None)
    with pytest.raises(DatasetFormatError, match="The sheet reaches"):
        read(sheet(inner), "a.xlsx")


@pytest.mark.parametrize("index", [b"0", b" 0 ", b"<![CDATA[0]]>", b"&#48;"])
@pytest.mark.parametrize(("cells", "is_refused"), [(100, False), (20_000, True)])
def test_a_text_that_cells_share_counts_in_each_of_them(
    index: bytes, cells: int, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Held as one text a cell it would be 600 MB.
    shared = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>%s</t></si></sst>' % (b"a" * 30_000)
    rows = (b"<row>" + b'<c t="s"><v>%s</v></c>' % index * 2 + b"</row>") * (cells // 2)
    path = tmp_path / "upload"
    path.write_bytes(
        rewritten(
            {
                "xl/sharedStrings.xml": shared,
                "xl/worksheets/sheet1.xml": b"<worksheet><sheetData>" + rows + b"</sheetData></worksheet>",
            }
        )
    )
    if not is_refused:
        workbook.check_archive(path)
        return
    with pytest.raises(DatasetFormatError, match="cells share grow to more than 512 MiB"):
        workbook.check_archive(path)


def test_rows_and_cells_without_references_are_read() -> None:
    cell = b'<c t="inlineStr"><is><t>%s</t></is></c>'
    inner = b"".join(b"<row>" + cell % one + cell % two + b"</row>" for one, two in [(b"question", b"answer"), (b"q", b"a")])
    (row,) = read(sheet(inner), "a.xlsx")[0]
    assert row == Example(2, "q", ("a",))


def test_a_workbook_whose_stated_sizes_lie_is_refused() -> None:
    data = bytearray(rewritten({"xl/media/x.bin": b"\x00" * 100_000}))
    place = data.rindex(b"xl/media/x.bin") - 46
    assert data[place : place + 4] == b"PK\x01\x02"
    data[place + 24 : place + 28] = (10).to_bytes(4, "little")
    with pytest.raises(DatasetFormatError, match="broken"):
        read(bytes(data), "a.xlsx")


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv"])
def test_memory_stays_flat_over_many_rows(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilling, "_BYTES_IN_MEMORY", 100_000)
    path = tmp_path / f"rows.{kind}"
    row_count = 20_000
    path.write_bytes(
        bytes_of([(f"第{number}个问题怎么办，应该怎么做？", f"开通方式_{number % 500}|9.9") for number in range(row_count)], kind)
    )
    tracemalloc.start()
    try:
        report = check_dataset(path, rows_to=tmp_path / "rows")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (report.rows, report.error_count, report.distinct_codes, report.distinct_answers) == (row_count, 0, 501, 500)
    assert peak < 1_400_000


def test_every_wrong_option_is_an_input_error() -> None:
    with pytest.raises(InvalidInput):
        read(b"question,answer\nq,a\n", "a.csv", encoding="utf-7")
    assert issubclass(DatasetFormatError, AppError)
