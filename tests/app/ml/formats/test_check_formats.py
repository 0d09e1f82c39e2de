"""The report's newer parts: codes, slices, leak check, canonical rows, token lengths."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.errors import DatasetFormatError
from app.ml.formats import spilling
from app.ml.formats.canonical import CanonicalWriter, read_canonical
from app.ml.formats.detection import ReadOptions
from app.ml.formats.example import Example
from app.ml.formats.reading import read_examples
from app.ml.formats.report import DatasetReport, check_dataset
from app.ml.formats.token_lengths import measure_token_lengths
from app.ml.prompting import PromptRenderer
from tests.app.ml.formats.tables import Table, text_of


def check(folder: Path, table: Table, **options: object) -> DatasetReport:
    path = folder / "upload"
    path.write_text(text_of(table, "csv"))
    return check_dataset(path, ReadOptions("a.csv"), **options)  # type: ignore[arg-type]


def test_codes_are_listed_with_their_rows_and_rare_ones_apart(tmp_path: Path) -> None:
    report = check(tmp_path, [("q1", "a|b"), ("q2", "a"), ("q3", "a|c")], rare_code_rows=2)
    assert report.codes == [{"code": "a", "rows": 3}, {"code": "b", "rows": 1}, {"code": "c", "rows": 1}]
    assert (report.rare_code_rows, report.rare_code_count) == (2, 2)
    assert report.rare_codes == [{"code": "b", "rows": 1}, {"code": "c", "rows": 1}]
    assert (report.format, report.encoding, report.leak) == ("csv", "utf-8", None)


def test_broken_separators_are_counted_among_the_errors(tmp_path: Path) -> None:
    report = check(tmp_path, [("q1", "a||b"), ("q2", "|a"), ("q3", "a"), ("q4", "")])
    assert (report.broken_separator_count, report.error_count) == (2, 3)


def test_questions_that_stand_in_another_file_are_a_leak(tmp_path: Path) -> None:
    others = [Example(7, "q2", ("x",)), Example(8, "q2", ("y",)), Example(9, "q9", ("x",))]
    report = check(tmp_path, [("q1", "a"), ("q2", "a"), ("q2", "b")], compare_with=others)
    assert report.leak == {"row_count": 2, "rows": [{"row": 3, "other_row": 7}, {"row": 4, "other_row": 7}]}
    assert report.is_check_passed


def test_canonical_rows_are_what_jobs_read(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes("用户问题,答案类型,答案\n怎么退,属性句,a_1｜９\n".encode("gbk"))
    report = check_dataset(path, rows_to=tmp_path / "rows")
    assert read_examples(tmp_path / "rows") == [Example(2, "怎么退", ("a_1", "9"), {"答案类型": "属性句"})]
    assert (report.slices, report.normalised["separators"]) == ({"答案类型": 1}, 1)
    assert json.loads(json.dumps(report.to_mapping()))["columns"]["question"] == "用户问题"


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b'{"row":1,"question":"q"}', b"\xff"])
def test_damaged_rows_name_their_place(tmp_path: Path, line: bytes) -> None:
    with CanonicalWriter(tmp_path / "rows") as writer:
        writer.write(Example(1, "q", ("a",)))
    with (tmp_path / "rows").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DatasetFormatError, match="damaged at row 2"):
        list(read_canonical(tmp_path / "rows"))


def test_a_file_of_the_user_that_begins_like_canonical_rows_is_no_dataset(tmp_path: Path) -> None:
    with CanonicalWriter(tmp_path / "rows.jsonl") as writer:
        writer.write(Example(1, "q", ("a",)))
    assert not check_dataset(tmp_path / "rows.jsonl").is_check_passed


@given(questions=st.lists(st.integers(0, 30), min_size=1, max_size=200), others=st.lists(st.integers(0, 30), max_size=50))
def test_repetitions_are_the_same_in_memory_and_on_disk(
    questions: list[int], others: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("spill")
    table = [(f"q{number}", f"a{place % 3}") for place, number in enumerate(questions)]
    compared = [Example(place, f"q{number}", ("x",)) for place, number in enumerate(others, start=1)]
    in_memory = check(folder, table, compare_with=compared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spilling, "_BYTES_IN_MEMORY", 100)
        on_disk = check(folder, table, compare_with=compared)
    assert on_disk == in_memory
    assert in_memory.duplicate_question_count == len(questions) - len(set(questions))
    assert in_memory.leak is not None
    assert in_memory.leak["row_count"] == sum(number in others for number in questions)
    assert [one.name for one in folder.iterdir()] == ["upload"]


class _CharTokenizer:
    bos_id, eos_id, pad_id = 1, 2, 0

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, ids: object) -> str:
        raise NotImplementedError


def test_token_lengths_count_prompt_and_answer_as_training_does() -> None:
    rows = [Example(number, "q" * number, ("ab", "c")) for number in range(1, 101)]
    # BOS, the question, a line break; "ab", "|", "c" and the end.
    lengths = measure_token_lengths(rows, PromptRenderer("plain"), _CharTokenizer(), cutoff_len=57)
    assert lengths == {
        "rows": 100,
        "max": 107,
        "mean": 57.5,
        "p50": 57,
        "p95": 102,
        "p99": 106,
        "cutoff_len": 57,
        "truncated": 50,
        "left_out": 0,
    }
    assert measure_token_lengths(rows, PromptRenderer("plain"), _CharTokenizer(), cutoff_len=6)["left_out"] == 100
