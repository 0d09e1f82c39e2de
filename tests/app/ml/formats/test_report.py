import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.ml.errors import DatasetFormatError
from app.ml.formats import report as report_module
from app.ml.formats.report import MAX_LISTED, DatasetReport, check_dataset

Check = Callable[..., DatasetReport]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def check(*rows: tuple[str, str] | None) -> DatasetReport:
        path = tmp_path / "data.jsonl"
        alpaca = [{} if row is None else {"instruction": row[0], "output": row[1]} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in alpaca))
        return check_dataset(path)

    return check


def test_a_report_counts_rows_codes_answers_and_categories(check: Check) -> None:
    report = check(("q1", "业务简介_1|9.9"), ("q22", "业务简介_2"), ("q3", "业务简介_1|9.9"))
    assert (report.rows, report.distinct_codes, report.distinct_answers, report.codes_per_answer_max) == (3, 3, 2, 2)
    assert report.categories == {"业务简介": 3, "value": 2}
    assert (report.question_chars_max, report.question_chars_mean) == (3, 2.33)
    assert report.is_check_passed


def test_codes_that_fewer_than_three_rows_show_are_rare(check: Check) -> None:
    assert check(*[("q", "often")] * 3, *[("q", "twice")] * 2, ("q", "once")).rare_code_count == 2


def test_a_question_that_occurs_again_is_a_duplicate(check: Check) -> None:
    report = check(("q", "a"), ("q", "a"), ("q", "a"), ("other", "a"))
    assert (report.duplicate_question_count, report.conflicting_question_count) == (2, 0)


def test_a_question_with_two_answers_is_a_conflict(check: Check) -> None:
    report = check(("q", "a"), ("p", "a"), ("q", "b"), ("q", "c"))
    assert (report.duplicate_question_count, report.conflicting_question_count) == (2, 1)
    assert report.conflicting_rows == [{"row": 3, "conflicts_with_row": 1}, {"row": 4, "conflicts_with_row": 1}]
    assert report.is_check_passed


def test_the_order_of_codes_is_no_conflict(check: Check) -> None:
    assert check(("q", "a|b"), ("q", "b|a")).conflicting_question_count == 0


def test_errors_are_cut_at_a_hundred_and_their_total_is_right(check: Check) -> None:
    report = check(("q", "a"), *[None] * 250)
    assert (report.error_count, len(report.errors), report.rows, report.is_check_passed) == (250, MAX_LISTED, 1, False)
    assert report.errors[0] == {"row": 2, "field": "instruction", "reason": "is missing"}
    assert report.errors[-1]["row"] == 101


def test_conflicting_rows_are_cut_at_a_hundred(check: Check) -> None:
    report = check(*[(f"q{number // 2}", f"a{number % 2}") for number in range(300)])
    assert (report.conflicting_question_count, len(report.conflicting_rows)) == (150, MAX_LISTED)


def test_a_file_without_a_usable_row_does_not_pass(check: Check) -> None:
    assert not check(None).is_check_passed


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(" [] ")
    with pytest.raises(DatasetFormatError, match="no rows"):
        check_dataset(tmp_path / "data.json")


def test_free_text_instead_of_codes_is_refused(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "MAX_DISTINCT_CODES", 10)
    with pytest.raises(DatasetFormatError, match="distinct codes"):
        check(*[("q", f"text {number}") for number in range(11)])


def test_a_report_has_a_json_form(check: Check) -> None:
    report = check(("q", "a"), None)
    assert DatasetReport(**json.loads(json.dumps(report.to_mapping()))) == report
