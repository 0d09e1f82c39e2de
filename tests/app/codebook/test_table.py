import io
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codebook.entries import Entry, GivenRow, InvalidCodebook, check_entries
from app.codebook.table import rows_of_cells, rows_of_csv, to_csv
from app.codebook.workbook import read_first_sheet
from app.errors import TooLarge

GOOD = "代码,类别,话术\n开通方式_98,开通方式,发送短信\n9.9,,\n"


def read_csv(text: str, encoding: str = "utf-8") -> list[Entry]:
    return check_entries(rows_of_csv(text.encode(encoding)))


def workbook(rows: list[list[object]]) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(row)
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
def test_a_csv_is_read_in_the_encodings_that_spreadsheets_write(encoding: str) -> None:
    assert read_csv(GOOD, encoding) == [Entry("开通方式_98", "开通方式", "发送短信"), Entry("9.9")]


@pytest.mark.parametrize("header", ["code,category,text", "Code, CATEGORY ,text", "编码,类别,文本", "代码,类别,话术"])
def test_columns_are_named_in_english_or_chinese(header: str) -> None:
    assert read_csv(f"{header}\na_1,a,hello\n") == [Entry("a_1", "a", "hello")]


def test_columns_come_in_any_order_and_only_the_code_is_needed() -> None:
    assert read_csv("text,code\nhello,a_1\n") == [Entry("a_1", None, "hello")]
    assert read_csv("code\na_1\n\n , \nb_2\n") == [Entry("a_1"), Entry("b_2")]


@pytest.mark.parametrize(
    ("text", "row", "field"),
    [
        ("code,text\na_1,x\n,y\n", 3, "code"),
        ("code,text\na_1,x\na_1,y\n", 3, "code"),
        ("code,text\na|b,x\n", 2, "code"),
        ("code,text\na_1,\x00\n", 2, "text"),
        (f"code,text\n{'a' * 201},x\n", 2, "code"),
        (f"code,category\na_1,{'x' * 201}\n", 2, "category"),
        (f"code,text\na_1,{'x' * 8001}\n", 2, "text"),
        ("code,reply\na_1,x\n", 1, "reply"),
        ("code,text,文本\na_1,x,y\n", 1, "text"),
        ("text\nx\n", 1, "code"),
        ("", 1, "code"),
        ("code\na_1,stray\n", 2, None),
        ('code,text\na_1,"x" y\n', 2, None),
        ('code,text\na_1,x\nb_1,"never closed\n', 3, None),
    ],
)
def test_an_error_names_the_row_and_the_field(text: str, row: int, field: str | None) -> None:
    with pytest.raises(InvalidCodebook) as refused:
        read_csv(text)
    assert refused.value.details is not None
    assert (refused.value.details["row"], refused.value.param) == (row, field)


def test_every_wrong_row_is_counted_and_a_hundred_are_listed() -> None:
    with pytest.raises(InvalidCodebook) as refused:
        read_csv("code,text\n" + ",x\n" * 150)
    assert refused.value.details is not None
    assert refused.value.details["error_count"] == 150
    assert len(refused.value.details["errors"]) == 100  # type: ignore[arg-type]


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidCodebook, match="UTF-8"):
        list(rows_of_csv(b"\xff\xff\xff"))


def test_more_entries_than_the_limit_are_refused() -> None:
    with pytest.raises(TooLarge):
        check_entries(GivenRow(number, f"a_{number}", None, None) for number in range(1, 200_002))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "＝", "＠"])
def test_no_cell_of_the_csv_begins_a_formula(start: str) -> None:
    text = to_csv([Entry(f"{start}1+1", f"{start}cmd", f"{start}HYPERLINK(1)")]).decode("utf-8-sig")
    cells = text.splitlines()[1].split(",")
    assert all(cell.lstrip('"').startswith("'") for cell in cells)


printable = st.text(st.characters(exclude_categories=["C"]) | st.sampled_from("=+-@'\t\r\n\","), max_size=12)
entries = st.lists(
    st.builds(
        Entry,
        printable.map(str.strip).filter(lambda code: code != "" and "|" not in code),
        printable.map(lambda text: text.strip() or None),
        printable.map(lambda text: text.strip() or None),
    ),
    unique_by=lambda entry: entry.code,
    max_size=6,
)


@given(book=entries)
def test_what_is_written_as_csv_is_read_back_exactly(book: list[Entry]) -> None:
    assert check_entries(rows_of_csv(to_csv(book))) == book


def test_a_workbook_is_read_with_whole_numbers_and_row_numbers_of_the_sheet() -> None:
    cells = read_first_sheet(
        workbook([["编码", "类别", "话术"], ["开通方式_98", "开通方式", "好"], [30, "value", None], [], [9.9]])
    )
    assert [(row.row, row.code, row.text) for row in rows_of_cells(cells)] == [
        (2, "开通方式_98", "好"),
        (3, "30", ""),
        (5, "9.9", ""),
    ]


def test_what_is_no_workbook_is_refused() -> None:
    with pytest.raises(InvalidCodebook, match="cannot be read"):
        read_first_sheet(b"PK\x03\x04 this is no zip")


def test_a_workbook_that_asks_for_endless_memory_ends_its_reader_only() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet["A1"] = "code"
    sheet.cell(row=1_048_576, column=60, value="x")
    target = io.BytesIO()
    book.save(target)
    with pytest.raises(InvalidCodebook, match="too much memory"):
        read_first_sheet(target.getvalue())


def test_a_workbook_with_too_many_columns_is_refused() -> None:
    with pytest.raises(InvalidCodebook, match="columns"):
        read_first_sheet(workbook([["code", *([None] * 200), "x"]]))


def test_the_reader_of_workbooks_alone_has_calamine_in_memory() -> None:
    source = Path(__file__).parents[3] / "app" / "codebook" / "workbook.py"
    assert "\nimport python_calamine" not in source.read_text() and "\nfrom python_calamine" not in source.read_text()
