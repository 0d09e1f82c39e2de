"""`dianda data check` on files of several formats."""

import json
from pathlib import Path

from typer.testing import CliRunner

from app.cli.main import cli

SAMPLES = Path(__file__).parents[3] / "samples"


def _run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["data", "check", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_good_file_is_shown_as_tables() -> None:
    code, text = _run(SAMPLES / "telecom_demo.json")
    assert code == 0
    assert "can be used" in text
    assert "开通方式" in text


def test_the_report_comes_as_json_too() -> None:
    code, text = _run(SAMPLES / "telecom_demo.json", "--json")
    assert code == 0
    assert json.loads(text)["rows"] == 239


def test_no_held_out_row_of_the_demo_occurs_in_its_training_rows() -> None:
    code, text = _run(SAMPLES / "telecom_demo.json", "--compare-with", SAMPLES / "telecom_demo_test.json", "--json")
    assert code == 0
    assert json.loads(text)["leak"]["row_count"] == 0


def test_a_bad_row_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("用户问题,答案\n怎么取消,取消方式_1\n怎么开通,开通方式_1||9.9\n")
    code, text = _run(path)
    assert code == 1
    assert "3" in text
    assert "empty code" in text


def test_a_gbk_table_with_its_own_headings_is_read_by_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("问句,编码\n怎么取消,取消方式_1\n".encode("gbk"))
    code, text = _run(path, "--columns", '{"question": "问句", "answer": "编码"}', "--encoding", "gbk", "--json")
    assert code == 0, text
    assert json.loads(text)["rows"] == 1
