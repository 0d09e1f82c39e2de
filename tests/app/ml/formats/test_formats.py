"""Every format and encoding: what was written is what is read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.ml.errors import DatasetFormatError
from app.ml.formats.columns import ColumnWish, wish_from_columns, wish_from_dataset_info
from app.ml.formats.example import Example, RowError
from app.ml.formats.workbook import text_of_cell
from tests.app.ml.formats.tables import (
    ENCODINGS,
    FORMATS,
    bytes_of,
    chat_line,
    encoded,
    pairs,
    read,
    text_of,
    warnings_of,
    workbook_of,
)

# What XLSX can hold too: no control characters; and nothing that a reader strips or normalises.
CHARS = st.characters(
    exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff｜．０１２３４５６７８９", max_codepoint=0x2FFFF
) | st.sampled_from("\"',\t;\n｡一百流量月包怎么取消007")
# Excel writes a character as _x0041_; a text that looks so by chance is not the same after writing.
QUESTION = st.text(CHARS, min_size=1, max_size=15).map(str.strip).filter(lambda text: text and "_x" not in text)
CODE = QUESTION.map(lambda text: text.replace("|", "").strip()).filter(bool)
ANSWER = st.lists(CODE, min_size=1, max_size=3, unique=True).map("|".join)
TABLE = st.lists(st.tuples(QUESTION, ANSWER), min_size=1, max_size=5)
TELECOM = [("百度流量月包怎么取消", "取消方式_12"), ("闪电宽带有什么业务，多少钱？", "业务简介_111|9.9|11.9")]


def expected(table: list[tuple[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    return [(question, tuple(code.strip() for code in answer.split("|"))) for question, answer in table]


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40)
@given(table=TABLE, encoding=st.sampled_from(ENCODINGS))
def test_a_table_is_read_as_it_was_written(kind: str, table: list[tuple[str, str]], encoding: str) -> None:
    name = "rows.jsonl" if kind == "chat" else f"rows.{kind}"

    rows, _ = read(bytes_of(table, kind, encoding), name, encoding="gb18030" if encoding == "gb18030" else None)

    assert pairs(rows) == expected(table)


@pytest.mark.parametrize("name", ["upload", "rows.txt", "named"])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_format_and_encoding_are_found_without_a_name(kind: str, encoding: str, name: str) -> None:
    rows, read_as = read(bytes_of(TELECOM, kind, encoding), f"{name}.{kind}" if name == "named" and kind != "chat" else name)

    assert pairs(rows) == expected(TELECOM)
    assert read_as.format == {"json": "alpaca", "jsonl": "alpaca"}.get(kind, kind)
    if kind != "xlsx":
        known_as = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}
        assert read_as.encoding == known_as.get(encoding, encoding.removesuffix("-marked"))
        assert warnings_of(read_as) == ({"encoding_detected": 1} if encoding == "gb18030" else {})


def test_utf8_that_is_called_gbk_is_refused_though_it_decodes() -> None:
    assert "取取".encode().decode("gb18030")
    with pytest.raises(DatasetFormatError, match="The file is UTF-8 text"):
        read("question,answer\n取取,取_1\n".encode(), "a.csv", encoding="gbk")
    assert pairs(read(b"question,answer\nq,a_1\n", "a.csv", encoding="gbk")[0]) == [("q", ("a_1",))]


@pytest.mark.parametrize("encoding", ["gbk", "GB2312", "cp936", "gb18030"])
def test_gbk_is_read_under_all_its_names(encoding: str) -> None:
    rows, read_as = read(text_of(TELECOM, "csv").encode("gbk"), "a.csv", encoding=encoding)
    assert pairs(rows) == expected(TELECOM)
    assert warnings_of(read_as) == {}


@pytest.mark.parametrize(
    ("encoding", "question"),
    [("big5", "電信流量套餐"), ("shift_jis", "カタカナひらがな"), ("latin-1", "ééé àüö"), ("cp1252", "“élan”")],
)
def test_other_encodings_are_refused_and_never_guessed(encoding: str, question: str) -> None:
    data = text_of([(question, "a_1")], "csv").encode(encoding)
    with pytest.raises(DatasetFormatError, match="Line 2 is not UTF-8"):
        read(data, "a.csv")
    with pytest.raises(InvalidInput, match="encoding must be") as caught:
        read(data, "a.csv", encoding=encoding)
    assert caught.value.param == "encoding"


def test_one_broken_byte_in_utf8_chinese_does_not_make_it_gb18030() -> None:
    data = bytearray(text_of(TELECOM * 20, "csv").encode())
    place = data.index("流".encode())
    del data[place]
    with pytest.raises(DatasetFormatError, match="Line 2 is not UTF-8"):
        read(bytes(data), "a.csv")


def test_a_file_that_contradicts_its_given_encoding_is_refused_with_its_line() -> None:
    with pytest.raises(DatasetFormatError) as caught:
        read("question,answer\n好,a_1\n".encode("gbk") + b"\xff\xff,b\n", "a.csv", encoding="gbk")
    assert caught.value.details == {"row": 3}
    with pytest.raises(DatasetFormatError, match="byte order mark of utf-16-le"):
        read(encoded(text_of(TELECOM, "csv"), "utf-16"), "a.csv", encoding="gbk")


def test_half_a_utf16_character_is_refused() -> None:
    with pytest.raises(DatasetFormatError, match="is not utf-16-le text"):
        read(encoded(text_of(TELECOM, "csv"), "utf-16")[:-1], "a.csv")


CCKS = ("用户问题", "答案类型", "属性名", "实体", "约束属性名", "约束属性值", "约束算子", "答案")
CCKS_ROWS = [
    ("百度流量月包怎么取消", "属性句", "取消方式", "百度流量月包", "", "", "", "取消方式_12"),
    ("最便宜的套餐", "比较句", "价格|业务简介", "套餐", "价格", "9.9", "min", "9.9|业务简介_1"),
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "xlsx"])
def test_the_headings_of_ccks2021_are_known_and_kept_as_slices(kind: str) -> None:
    data = workbook_of([CCKS, *CCKS_ROWS]) if kind == "xlsx" else text_of(CCKS_ROWS, kind, CCKS).encode("gbk")

    rows, read_as = read(data, f"ccks.{kind}")

    assert pairs(rows) == [("百度流量月包怎么取消", ("取消方式_12",)), ("最便宜的套餐", ("9.9", "业务简介_1"))]
    assert [dict(row.slices) for row in rows if isinstance(row, Example)] == [
        {"答案类型": "属性句", "属性名": "取消方式", "实体": "百度流量月包"},
        dict(zip(CCKS[1:7], CCKS_ROWS[1][1:7], strict=True)),
    ]
    assert read_as.columns["question"] == "用户问题"
    assert list(read_as.columns["slices"]) == list(CCKS[1:7])  # type: ignore[call-overload]


def test_a_mapping_names_the_columns() -> None:
    wish = wish_from_columns({"question": "Text", "answer": "label", "slices": {"kind": "domain"}})
    rows, read_as = read(b"id,text,label,domain\n1,hi,greet_1,smalltalk\n", "a.csv", columns=wish)
    assert rows == [Example(2, "hi", ("greet_1",), {"kind": "smalltalk"})]
    assert read_as.columns == {"question": "text", "answer": "label", "slices": {"kind": "domain"}}


def test_a_mapping_works_for_json_too() -> None:
    wish = wish_from_columns({"prompt": "q", "query": "more", "response": "a"})
    rows, _ = read('[{"q":"甲","a":"x"},{"q":"乙","more":"丙","a":"y"}]'.encode(), columns=wish)
    assert pairs(rows) == [("甲", ("x",)), ("乙\n丙", ("y",))]


def test_json_rows_under_other_known_names_are_read_and_a_later_input_too() -> None:
    rows, _ = read('{"question":"甲","answer":"x"}\n{"question":"乙","input":"丙","answer":"y"}\n'.encode())
    assert pairs(rows) == [("甲", ("x",)), ("乙\n丙", ("y",))]


INFO = {
    "other": {"file_name": "other.json"},
    "telecom": {"file_name": "data/train.json", "columns": {"prompt": "q", "response": "a", "system": "s", "history": "h"}},
    "chats": {
        "file_name": "chats.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conv"},
        "tags": {"assistant_tag": "bot"},
    },
}


def test_dataset_info_is_read_whole_by_file_name_or_as_one_entry() -> None:
    assert wish_from_dataset_info(INFO, filename="train.json") == wish_from_dataset_info(INFO["telecom"], filename="x")  # type: ignore[arg-type]
    rows, _ = read(
        '[{"q":"甲","a":"x","instruction":"no"}]'.encode(), columns=wish_from_dataset_info(INFO, filename="train.json")
    )
    assert pairs(rows) == [("甲", ("x",))]
    with pytest.raises(InvalidInput, match=r"no entry whose file_name is 'unknown.json'"):
        wish_from_dataset_info(INFO, filename="unknown.json")


def test_sharegpt_of_dataset_info_is_a_chat() -> None:
    wish = wish_from_dataset_info(INFO, filename="chats.json")
    rows, read_as = read('[{"conv":[{"from":"human","value":"甲"},{"from":"bot","value":"x|y"}]}]'.encode(), columns=wish)
    assert pairs(rows) == [("甲", ("x", "y"))]
    assert read_as.format == "chat"


@pytest.mark.parametrize(
    "columns",
    [
        {"question": 1},
        {"nonsense": "a"},
        {"question": "a", "prompt": "b"},
        {"slices": 5},
        {"question": ""},
        {"question": "\ud800"},
        {"slices": [1]},
    ],
)
def test_a_mapping_that_is_none_is_refused(columns: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        wish_from_columns(columns)
    assert caught.value.param == "columns"


def test_the_last_question_of_a_chat_counts_and_the_rest_is_told() -> None:
    line = (
        '{"messages":[{"role":"system","content":"s"},{"role":"user","content":"old"},{"role":"assistant","content":"a_1"},'
        '{"role":"user","content":[{"type":"text","text":"new"}]},{"role":"assistant","content":"b_2"}]}'
    )
    rows, read_as = read(line.encode())
    assert pairs(rows) == [("new", ("b_2",))]
    assert warnings_of(read_as) == {"system_messages_ignored": 1, "earlier_turns_ignored": 1}


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ("5", "messages"),
        ("[]", "messages"),
        ('[{"role":"user","content":"q"}]', "messages"),
        ('[{"role":"assistant","content":"q"}]', "messages"),
        ('["x"]', "messages[0]"),
        ('[{"role":"tool","content":"q"}]', "messages[0].role"),
        ('[{"role":["x"],"content":"q"}]', "messages[0].role"),
        ('[{"role":"user","content":5}]', "messages[0].content"),
        ('[{"role":"user","content":[{"type":"image_url"}]}]', "messages[0].content"),
        ('[{"role":"user","content":" "},{"role":"assistant","content":"a"}]', "messages[0].content"),
        ('[{"role":"user","content":"q"},{"role":"assistant","content":"a||b"}]', "messages[1].content"),
        ('[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"assistant","content":"b"}]', "messages"),
    ],
)
def test_a_chat_row_that_cannot_be_used_names_the_message(messages: str, field: str) -> None:
    rows, _ = read(chat_line("q", "a").encode() + f'{{"messages":{messages}}}\n'.encode())
    assert isinstance(rows[1], RowError)
    assert (rows[1].row, rows[1].field) == (2, field)


def test_full_width_digits_and_separators_of_answers_are_normalised_and_counted() -> None:
    rows, read_as = read("question,answer\n１０元怎么退,价格_１２｜９．９\n好．吗,a．b\n".encode(), "a.csv")
    assert pairs(rows) == [("１０元怎么退", ("价格_12", "9.9")), ("好．吗", ("a．b",))]
    assert read_as.findings.normalised.to_mapping() == {"digits": 4, "separators": 1, "dots": 1}
    assert warnings_of(read_as) == {"answers_normalised": 1, "full_width_digits_in_questions": 1}


@pytest.mark.parametrize("answer", ["业务简介_111、9.9", "开通方式_98,开通方式_97", "9.9；价格_1", "a_1/b_2", "a_1丨b_2"])
def test_codes_joined_by_another_sign_are_noticed(answer: str) -> None:
    _, read_as = read(text_of([("q", answer)], "csv").encode(), "a.csv")
    assert warnings_of(read_as) == {"suspicious_separator": 1}


def test_cells_stay_the_text_that_they_are() -> None:
    rows, _ = read(b"question,answer\nNA,007\nnull,1e5\n=1+1,TRUE\n", "a.csv")
    assert pairs(rows) == [("NA", ("007",)), ("null", ("1e5",)), ("=1+1", ("TRUE",))]


def test_rows_of_a_table_are_numbered_with_heading_and_blank_rows() -> None:
    rows, _ = read(b'\nquestion,answer\n\n"a\nb",x\n,,\n , \nc,y,,\n', "a.csv")
    assert [(row.row, type(row)) for row in rows] == [(4, Example), (7, Example)]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_line_ends_and_delimiters_of_all_spreadsheets(ending: str, sign: str) -> None:
    text = ending.join(f"{question}{sign}{answer}" for question, answer in [("question", "answer"), ("a", "x"), ("b", "y")])
    assert pairs(read(text.encode(), "a.csv")[0]) == [("a", ("x",)), ("b", ("y",))]


@pytest.mark.parametrize(
    ("tail", "row", "reason"),
    [
        ('"open,x\nc,y\n', 3, "never closed"),
        ('"open' + "x\n" * 100_000, 3, "never closed"),
        ('"a"b,x\n', 3, "after a closing quote"),
        ("only\n", 3, "has 1 cells, but the heading has 2"),
        ("a,b,c\n", 3, "has 3 cells"),
        (",x\n", 3, "is empty"),
        ("q,\n", 3, "is empty"),
        ("q,a||b\n", 3, "empty code"),
        ("q\x00,a\n", 3, "NUL"),
    ],
)
def test_a_broken_row_of_a_table_names_row_and_reason(tail: str, row: int, reason: str) -> None:
    rows, _ = read(f"question,answer\nok,x\n{tail}".encode(), "a.csv")
    errors = [one for one in rows if isinstance(one, RowError)]
    assert errors[0].row == row
    assert reason in errors[0].reason


def test_rows_after_a_broken_quote_are_read() -> None:
    rows, _ = read(b'question,answer\n"a"b,x\nc,y\n', "a.csv")
    assert [type(row) for row in rows] == [RowError, Example]


def test_a_heading_without_question_and_answer_lists_what_it_has() -> None:
    with pytest.raises(DatasetFormatError, match="'foo', 'bar'") as caught:
        read(b"foo,bar\n1,2\n", "a.csv")
    assert caught.value.param == "columns"
    assert caught.value.details == {"row": 1, "headings": ["foo", "bar"]}


def test_a_used_column_that_stands_twice_is_refused() -> None:
    with pytest.raises(DatasetFormatError, match="'answer' twice"):
        read(b"question,answer,answer\n1,2,3\n", "a.csv")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("007", "007"),
        (30.0, "30"),
        (11.9, "11.9"),
        (0.1 + 0.2, "0.3"),
        (5, "5"),
        (True, "TRUE"),
        (1e20, "1" + "0" * 20),
        (-2.50, "-2.5"),
    ],
)
def test_a_cell_is_the_text_that_a_spreadsheet_shows(cell: object, text: str) -> None:
    assert text_of_cell(cell) == text


def test_numbers_in_a_workbook_become_codes_and_dates_are_errors() -> None:
    import datetime

    data = workbook_of([["问题", "答案"], ["多少钱", 30.0], [10, 11.9], ["何时", datetime.date(2026, 1, 2)], [], ["好", "a"]])
    rows, read_as = read(data, "a.xlsx")
    assert pairs([row for row in rows if isinstance(row, Example)]) == [("多少钱", ("30",)), ("10", ("11.9",)), ("好", ("a",))]
    assert [(row.row, getattr(row, "field", None)) for row in rows] == [(2, None), (3, None), (4, "答案"), (6, None)]
    assert warnings_of(read_as) == {"number_was_no_text": 3}


def test_a_sheet_is_chosen_by_name() -> None:
    data = workbook_of([["question", "answer"], ["q", "a"]], title="数据", more_sheets=["说明"])
    assert warnings_of(read(data)[1]) == {"other_sheets_ignored": 1}
    assert warnings_of(read(data, sheet="数据")[1]) == {}
    with pytest.raises(InvalidInput, match="It has: '数据', '说明'"):
        read(data, sheet="nothing")
    with pytest.raises(DatasetFormatError, match="names no question"):
        read(data, sheet="说明")


def test_a_wish_for_columns_that_are_not_there_is_refused() -> None:
    with pytest.raises(DatasetFormatError, match="names no question"):
        read(b"question,answer\nq,a\n", "a.csv", columns=ColumnWish(question="Frage"))
