import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.datasets import repository, splits
from app.datasets.models import Dataset
from tests.fixtures.api import Api
from tests.fixtures.queue import insert_file, row_count

DEMO = (Path(__file__).parents[3] / "samples" / "telecom_demo.json").read_bytes()
PARTS = [
    {"name": "train_60", "size": 60},
    {"name": "train_20", "size": 20, "within": "train_60"},
    {"name": "测试_30", "size": 30},
]


def split(api: Api, file_id: str, parts: list[dict[str, Any]] = PARTS, **fields: Any) -> httpx2.Response:
    return api.client.post(f"/v1/files/{file_id}/splits", json={"parts": parts, **fields})


def content(api: Api, file_id: str) -> list[dict[str, str]]:
    lines = api.client.get(f"/v1/files/{file_id}/content").content.splitlines()
    return [json.loads(line) for line in lines]


def blobs(api: Api) -> set[str]:
    return {path.name for path in (api.settings.blobs_dir / "files").iterdir()}


def test_every_part_becomes_a_file_of_its_own(api: Api) -> None:
    parent = api.file_id(content=DEMO, purpose="evals")
    response = split(api, parent, seed=1)
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["object"], body["parent_id"], body["seed"]) == ("file.split", parent, 1)
    assert [(part["name"], part["within"], part["rows"]) for part in body["data"]] == [
        ("train_60", None, 60),
        ("train_20", "train_60", 20),
        ("测试_30", None, 30),
    ]
    source = [(row["instruction"], row["output"]) for row in json.loads(DEMO)]
    rows = {
        part["name"]: [(row["instruction"], row["output"]) for row in content(api, part["file"]["id"])] for part in body["data"]
    }
    assert set(rows["train_20"]) < set(rows["train_60"]) < set(source)
    assert not set(rows["train_60"]) & set(rows["测试_30"])
    for part in body["data"]:
        file = api.client.get(f"/v1/files/{part['file']['id']}").json()
        assert file == part["file"]
        assert (file["purpose"], file["filename"], file["parent_id"]) == ("evals", f"{part['name']}.jsonl", parent)
        assert file["report"]["rows"] == part["rows"] == len(rows[part["name"]])
        assert file["provenance"]["seed"] == 1 and file["provenance"]["part"] == part["name"]
        assert file["provenance"]["parts"] == PARTS
        assert part["largest_deviation_points"] < 100 / part["rows"]
        assert abs(sum(share["before_percent"] for share in part["categories"]) - 100) < 60


def test_the_same_seed_gives_the_same_bytes(api: Api) -> None:
    parent = api.file_id(content=DEMO)
    first, second, other = (split(api, parent, seed=seed).json() for seed in (7, 7, 8))
    sha256s = [[part["file"]["sha256"] for part in body["data"]] for body in (first, second, other)]
    assert sha256s[0] == sha256s[1] != sha256s[2]


def test_a_part_can_be_trained_on_and_split_again(api: Api) -> None:
    parent = api.file_id(content=DEMO)
    part = split(api, parent).json()["data"][0]["file"]["id"]
    assert api.post_job(part).status_code == 200
    again = split(api, part, [{"name": "half", "fraction": 0.5}])
    assert again.json()["data"][0]["rows"] == 30


def test_a_file_that_was_not_split_has_no_parent(api: Api) -> None:
    file = api.client.get(f"/v1/files/{api.file_id()}").json()
    assert (file["parent_id"], file["provenance"]) == (None, None)


def test_a_failure_leaves_neither_rows_nor_blobs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = api.file_id(content=DEMO)
    before = blobs(api)
    calls = 0
    original = repository.add

    def failing_add(session: Any, dataset: Dataset) -> Dataset:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("the disk is full")
        return original(session, dataset)

    monkeypatch.setattr(repository, "add", failing_add)
    assert split(api, parent).status_code == 500
    assert calls == 3
    assert blobs(api) == before
    assert row_count(api.engine, Dataset) == 1
    assert list(api.settings.data_dir.joinpath("uploads").iterdir()) == []


def test_a_parent_deleted_while_it_is_cut_leaves_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = api.file_id(content=DEMO)
    original = splits.cut

    def cut_and_delete(*args: Any, **options: Any) -> Any:
        cuts = original(*args, **options)
        assert api.client.delete(f"/v1/files/{parent}").status_code == 200
        return cuts

    monkeypatch.setattr(splits, "cut", cut_and_delete)
    assert split(api, parent).status_code == 404
    assert blobs(api) == set()
    assert row_count(api.engine, Dataset) == 0


@pytest.mark.parametrize(
    ("parts", "status", "param"),
    [
        ([{"name": "a", "size": 10_000}], 400, "parts.0.size"),
        ([{"name": "a", "size": 5}, {"name": "a", "size": 5}], 400, "parts.1.name"),
        ([{"name": "a"}], 400, "parts.0.size"),
        ([{"name": "a", "size": 5, "within": "b"}], 400, "parts.0.within"),
        ([{"name": "a", "size": 0}], 422, "parts.0.size"),
        ([{"name": "../a", "size": 1}], 422, "parts.0.name"),
        ([{"name": "a", "fraction": 1.5}], 422, "parts.0.fraction"),
        ([{"name": "a", "size": 1, "sized": 1}], 422, "parts.0.sized"),
        ([], 422, "parts"),
    ],
)
def test_what_cannot_be_cut_names_the_field(shared_api: Api, parts: list[dict[str, Any]], status: int, param: str) -> None:
    response = split(shared_api, shared_api.file_id(content=DEMO), parts)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text


def test_an_unknown_file_and_a_result_are_refused(api: Api) -> None:
    assert split(api, "file-none").status_code == 404
    with_no_report = insert_file(api.engine)
    with api.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE files SET report = NULL")
    response = split(api, with_no_report)
    assert response.status_code == 400
    assert "result" in response.json()["error"]["message"]
