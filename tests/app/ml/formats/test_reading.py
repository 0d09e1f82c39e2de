import json
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.errors import DatasetFormatError
from app.ml.formats.example import MAX_CODE_CHARS, MAX_QUESTION_CHARS, Example, RowError
from app.ml.formats.reading import MAX_LINE_BYTES, read_examples, read_rows
from app.ml.formats.report import check_dataset
from tests.app.ml.strategies import ANSWER, PLAIN_TEXT

Row = dict[str, object]
ARRAY, LINES = "array", "lines"
BOTH = pytest.mark.parametrize("form", [ARRAY, LINES])
GOOD: Row = {"instruction": "怎么退订？", "input": "", "output": "取消方式_13|9.9"}
QUESTION = PLAIN_TEXT.map(str.strip).filter(bool)
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def written(rows: list[object], form: str, *, ascii_only: bool = False) -> bytes:
    if form == ARRAY:
        return json.dumps(rows, ensure_ascii=ascii_only).encode()
    return b"".join(json.dumps(row, ensure_ascii=ascii_only).encode() + b"\n" for row in rows)


@contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.json"
        path.write_bytes(data)
        yield path


def rows_of(data: bytes) -> list[Example | RowError]:
    with file_of(data) as path:
        return list(read_rows(path))


def only_error(row: object, form: str) -> RowError:
    (error,) = rows_of(written([row], form))
    assert isinstance(error, RowError)
    return error


@BOTH
def test_a_row_becomes_a_question_and_its_codes(form: str) -> None:
    row = {"instruction": " 怎么退订？ ", "input": "流量包", "output": "取消方式_13 | 9.9"}
    assert rows_of(written([row], form)) == [Example(1, "怎么退订？\n流量包", ("取消方式_13", "9.9"))]


@BOTH
def test_input_may_be_missing_or_null(form: str) -> None:
    rows: list[object] = [{"instruction": "q", "output": "a"}, {"instruction": "q", "input": None, "output": "a"}]
    assert rows_of(written(rows, form)) == [Example(1, "q", ("a",)), Example(2, "q", ("a",))]


@BOTH
def test_a_question_may_stand_in_input_alone(form: str) -> None:
    assert rows_of(written([{"instruction": "", "input": "q", "output": "a"}], form)) == [Example(1, "q", ("a",))]


@BOTH
def test_a_byte_order_mark_and_leading_blanks_are_skipped(form: str) -> None:
    assert rows_of(b"\xef\xbb\xbf \n" + written([GOOD], form))[0].row in (1, 2)
    assert len(rows_of(b"\xef\xbb\xbf" + written([GOOD], form))) == 1


@BOTH
def test_other_fields_of_a_row_are_ignored(form: str) -> None:
    row = GOOD | {"history": [["a", {"b": 1.5}]], "id": 7, "weight": 0.25}
    assert isinstance(rows_of(written([row], form))[0], Example)


def test_blank_lines_between_rows_keep_the_line_numbers() -> None:
    line = written([GOOD], LINES)
    assert [row.row for row in rows_of(line + b"\n  \r\n" + line)] == [1, 4]


def test_lines_may_end_the_windows_way_or_not_at_all() -> None:
    line = written([GOOD], LINES).strip()
    assert [type(row) for row in rows_of(line + b"\r\n" + line)] == [Example, Example]


def test_a_line_separator_inside_a_text_ends_no_line() -> None:
    assert rows_of(written([GOOD | {"instruction": "a\u2028b\x85c"}], LINES)) == [
        Example(1, "a\u2028b\x85c", ("取消方式_13", "9.9"))
    ]


@pytest.mark.parametrize("data", [b"", b" \n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n"])
def test_an_empty_file_is_refused(data: bytes) -> None:
    with pytest.raises(DatasetFormatError, match="empty"):
        rows_of(data)


@BOTH
@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"instruction": None}, "instruction", "is missing"),
        ({"instruction": "  "}, "instruction", "is empty"),
        ({"instruction": 5}, "instruction", "must be text, not a number"),
        ({"instruction": 5.5}, "instruction", "must be text, not a number"),
        ({"instruction": True}, "instruction", "must be text, not true or false"),
        ({"input": ["x"]}, "input", "must be text, not a list"),
        ({"output": {}}, "output", "must be text, not an object"),
        ({"output": None}, "output", "is missing"),
        ({"output": " "}, "output", "is empty"),
        ({"output": "a||b"}, "output", "has an empty code"),
        ({"output": "a|"}, "output", "has an empty code"),
        ({"output": "|"}, "output", "has an empty code"),
        ({"output": "a|b| a"}, "output", "names a code twice"),
        ({"output": "|".join(map(str, range(65)))}, "output", "has 65 codes"),
        ({"output": "x" * (MAX_CODE_CHARS + 1)}, "output", "has a code of 201 characters"),
        ({"instruction": "x" * (MAX_QUESTION_CHARS + 1)}, "instruction", "has 8001 characters"),
        ({"instruction": "a\x00b"}, "instruction", "holds a NUL character"),
        ({"output": "a\x00"}, "output", "holds a NUL character"),
    ],
)
def test_a_row_that_cannot_be_used_names_its_field_and_reason(form: str, change: Row, field: str, reason: str) -> None:
    error = only_error(GOOD | change, form)
    assert (error.row, error.field) == (1, field)
    assert error.reason.startswith(reason)


@BOTH
@pytest.mark.parametrize("row", [1, "text", None, True, 1.5])
def test_a_row_that_is_no_object_is_an_error_of_that_row(form: str, row: object) -> None:
    assert only_error(row, form).reason == "must be an object with instruction and output"


def test_a_row_that_is_a_list_is_an_error_of_that_row() -> None:
    assert only_error([GOOD], ARRAY).field is None


@BOTH
def test_rows_after_a_bad_one_are_read(form: str) -> None:
    assert [type(row) for row in rows_of(written([GOOD, {}, GOOD], form))] == [Example, RowError, Example]


@pytest.mark.parametrize(
    "data", [b"not json\n", b'{"instruction": "q"\n', b"\xff\xfe\n", b'{"output": "\xff"}\n', b'{"output": "\\ud800"}\n']
)
def test_a_broken_line_is_an_error_of_its_row_alone(data: bytes) -> None:
    first, second = rows_of(data + written([GOOD], LINES))
    assert isinstance(first, RowError)
    assert first.reason.startswith("is not JSON")
    assert isinstance(second, Example)


def test_half_a_surrogate_pair_never_reaches_an_example_of_lines() -> None:
    assert isinstance(rows_of(b'{"instruction": "\\udc00", "output": "a"}')[0], RowError)


def test_half_a_surrogate_pair_in_an_array_is_refused_or_replaced() -> None:
    for half in (b"\\ud800", b"\\udc00", b"\\ud800\\ud800"):
        data = b'[{"instruction": "x' + half + b'", "output": "a"}]'
        try:
            (row,) = rows_of(data)
        except DatasetFormatError:
            continue
        assert isinstance(row, RowError) or row.question.encode().startswith(b"x")


@pytest.mark.parametrize("cut", [1, 20, 40, -1])
def test_a_truncated_array_is_refused(cut: int) -> None:
    with pytest.raises(DatasetFormatError, match="breaks off"):
        rows_of(written([GOOD, GOOD], ARRAY)[:cut])


def test_a_truncated_array_says_how_many_rows_were_whole() -> None:
    with pytest.raises(DatasetFormatError, match="breaks off after row 2") as caught:
        rows_of(written([GOOD, GOOD, GOOD], ARRAY)[:-10])
    assert caught.value.details == {"row": 3}


@pytest.mark.parametrize("number", [b"9" * 6000, b"-" + b"9" * 6000, b"1e99999999999999999999", b"9" * 30, b"1e400"])
def test_a_number_of_any_length_breaks_an_array_and_not_the_process(number: bytes) -> None:
    # ijson's C backend without use_float ended the process with SIGSEGV here.
    with pytest.raises(DatasetFormatError, match="overflow"):
        rows_of(b'[{"n": ' + number + b"}]")


@pytest.mark.parametrize("data", [b"[" * 5000, b'[{"a":' + b"[" * 30 + b"]" * 30 + b"}]", b'[{"a":' * 30])
def test_an_array_that_is_nested_deeply_is_refused(data: bytes) -> None:
    with pytest.raises(DatasetFormatError, match="nested deeper"):
        rows_of(data)


def test_a_line_that_is_nested_deeply_is_an_error_of_its_row() -> None:
    (row,) = rows_of(b'{"a":' * 5000)
    assert isinstance(row, RowError)


@pytest.mark.parametrize("data", [b"[]x", b"[][]", b"[1,]", b"[,1]", b'["a\nb"]', b'[{"a" 1}]', b"[\xff]", b'["\xff"]', b"[nul]"])
def test_what_is_no_json_array_is_refused(data: bytes) -> None:
    with pytest.raises(DatasetFormatError, match="breaks off"):
        rows_of(data)


def test_a_line_without_end_is_refused_before_it_is_held() -> None:
    with pytest.raises(DatasetFormatError, match="Row 2 is longer"):
        rows_of(written([GOOD], LINES) + b" " * (MAX_LINE_BYTES + 1))


def test_read_examples_refuses_a_bad_row_with_its_number() -> None:
    with (
        file_of(written([GOOD, {"instruction": "q"}], LINES)) as path,
        pytest.raises(DatasetFormatError, match="Row 2: output is missing"),
    ):
        read_examples(path)


@BOTH
@given(rows=st.lists(st.tuples(QUESTION, ANSWER), min_size=1, max_size=8), ascii_only=st.booleans())
def test_examples_are_read_as_they_were_written(form: str, rows: list[tuple[str, tuple[str, ...]]], ascii_only: bool) -> None:
    alpaca: list[object] = [{"instruction": question, "input": "", "output": "|".join(codes)} for question, codes in rows]
    with file_of(written(alpaca, form, ascii_only=ascii_only)) as path:
        examples = read_examples(path)
    assert examples == [Example(number, question, codes) for number, (question, codes) in enumerate(rows, start=1)]


def assert_only_format_errors(data: bytes) -> None:
    with file_of(data) as path:
        try:
            report = check_dataset(path)
        except DatasetFormatError as error:
            assert error.message
        else:
            assert report.rows + report.error_count > 0


@given(
    st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda tail: b"[" + tail)
    | st.binary(max_size=60).map(lambda t: b'[{"a":' + t)
)
def test_random_bytes_raise_nothing_but_a_format_error(data: bytes) -> None:
    assert_only_format_errors(data)


@BOTH
@given(data=st.data())
def test_a_mutated_file_raises_nothing_but_a_format_error(form: str, data: st.DataObject) -> None:
    content = bytearray(written([GOOD, GOOD | {"id": 1}, GOOD], form, ascii_only=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 5))] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"[", b"}", b'"', b"9" * 50, b"\\u"])
        )
    assert_only_format_errors(bytes(content))


@BOTH
@given(
    rows=st.lists(JSON_VALUE | st.fixed_dictionaries({"instruction": JSON_VALUE, "output": JSON_VALUE}), min_size=1, max_size=5)
)
def test_rows_of_any_json_raise_nothing_but_a_format_error(form: str, rows: list[object]) -> None:
    assert_only_format_errors(written(rows, form, ascii_only=True))


@BOTH
def test_memory_stays_flat_over_many_rows(form: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    row_count = 20_000
    path.write_bytes(written([GOOD] * row_count, form))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == row_count
    assert peak < 1_000_000 < path.stat().st_size
