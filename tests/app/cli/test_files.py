import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.cli.terminal import Dianda, dialect
from tests.fixtures.api import Api, alpaca, serving

__all__ = ["dialect"]


@pytest.fixture
def dianda(api: Api) -> Iterator[Dianda]:
    with serving(api.app) as url:
        yield Dianda(url)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.json"
    data = [{"instruction": f"第{row}问", "output": f"取消方式_{row % 2}"} for row in range(40)]
    path.write_text(json.dumps(data))
    return str(path)


def test_an_upload_shows_its_report_and_is_listed(api: Api, dianda: Dianda, rows: str) -> None:
    made = dianda("data", "upload", rows, "--json").json

    assert made["report"]["rows"] == 40
    assert made["id"] in dianda("data", "list").out
    assert "distinct codes" in dianda("data", "show", made["id"]).out


def test_a_file_that_cannot_be_used_is_refused_with_its_row(api: Api, dianda: Dianda, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('[{"instruction": "问", "output": ""}]')

    ran = dianda("data", "upload", str(path))

    assert ran.code == 1 and "row 1" in ran.err


def test_a_path_is_split_into_the_parts_that_are_asked(api: Api, dianda: Dianda, rows: str) -> None:
    made = dianda(
        "data", "split", rows, "--part", "train_20=20", "--part", "train_4=4@train_20", "--part", "test=0.25", "--json"
    ).lines[-1]

    assert [(part["name"], part["rows"], part["within"]) for part in made["data"]] == [
        ("train_20", 20, None),
        ("train_4", 4, "train_20"),
        ("test", 10, None),
    ]


@pytest.mark.parametrize("part", ["train", "=5", "train=many", "train=5@"])
def test_a_part_that_says_no_amount_is_a_wrong_command_line(dianda: Dianda, rows: str, part: str) -> None:
    assert dianda("data", "split", rows, "--part", part).code == 2


def test_a_deleted_file_is_gone(api: Api, dianda: Dianda) -> None:
    file_id = api.file_id(content=alpaca())

    assert dianda("data", "delete", file_id).code == 0
    assert api.client.get(f"/v1/files/{file_id}").status_code == 404


def test_a_part_is_named_by_its_name_afterwards(api: Api, dianda: Dianda, rows: str) -> None:
    made = dianda("data", "split", rows, "--part", "train_20=20", "--json").lines[-1]

    again = dianda("data", "split", "train_20", "--part", "train_4=4", "--json").json

    assert again["parent_id"] == made["data"][0]["file"]["id"]
