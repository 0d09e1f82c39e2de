"""Uploads of every format over HTTP, with their form fields."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.blobs.keys import rows_key
from app.datasets import repository, service
from app.db.unit_of_work import read_only
from app.ml.formats.example import Example
from app.ml.formats.reading import read_examples
from tests.app.ml.formats.tables import FORMATS, bytes_of, workbook_of
from tests.fixtures.api import BASE, Api

TABLE = [("百度流量月包怎么取消", "取消方式_12"), ("闪电宽带有什么业务", "业务简介_111|9.9")]


def upload(api: Api, content: bytes, name: str, **fields: str) -> Any:
    return api.client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune", **fields})


def uploaded(api: Api, content: bytes, name: str, **fields: str) -> dict[str, Any]:
    response = upload(api, content, name, **fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def stored_rows(api: Api, file_id: str, scratch: Path) -> list[Example]:
    with read_only(api.engine) as session:
        dataset = repository.get(session, file_id)
    return read_examples(service.fetch_rows(api.app.state.blobs, dataset, scratch))


def kept(api: Api) -> list[str]:
    folders = (api.settings.blobs_dir, api.settings.data_dir / "uploads")
    return sorted(path.name for folder in folders for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_stored_as_rows_beside_its_own_bytes(shared_api: Api, kind: str, tmp_path: Path) -> None:
    content = bytes_of(TABLE, kind)
    body = uploaded(shared_api, content, "rows.jsonl" if kind == "chat" else f"rows.{kind}")

    rows = stored_rows(shared_api, body["id"], tmp_path)

    assert [(row.question, "|".join(row.codes)) for row in rows] == TABLE
    assert shared_api.client.get(f"/v1/files/{body['id']}/content").content == content
    assert body["report"]["rows"] == 2


def test_fields_of_the_form_say_how_to_read(shared_api: Api) -> None:
    content = "Frage,Antwort\n怎么退,a_1\n".encode("gbk")
    columns = json.dumps({"question": "Frage", "answer": "Antwort"})
    report = uploaded(shared_api, content, "a.csv", columns=columns, encoding="gbk", rare_code_rows="1")["report"]
    assert (report["encoding"], report["columns"]["answer"], report["rare_code_rows"]) == ("gb18030", "Antwort", 1)
    assert report["warnings"] == []


def test_dataset_info_is_chosen_by_the_files_name(shared_api: Api) -> None:
    info = {"x": {"file_name": "a.json", "columns": {"prompt": "q", "response": "a"}}}
    content = '[{"q":"怎么退","a":"a_1"}]'.encode()
    assert uploaded(shared_api, content, "a.json", dataset_info=json.dumps(info))["report"]["columns"]["question"] == "q"
    response = upload(shared_api, content, "b.json", dataset_info=json.dumps(info))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "dataset_info")


def test_a_sheet_is_chosen_by_name(shared_api: Api) -> None:
    content = workbook_of([["问题", "答案"], ["怎么退", "a_1"]], title="数据", more_sheets=["x"])
    assert uploaded(shared_api, content, "a.xlsx", sheet="数据")["report"]["format"] == "xlsx"
    response = upload(shared_api, content, "a.xlsx", sheet="none")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "sheet")


def test_a_leak_is_reported_with_both_rows(shared_api: Api) -> None:
    first = uploaded(shared_api, bytes_of(TABLE, "csv"), "train.csv")["id"]
    report = uploaded(shared_api, bytes_of(TABLE[1:], "jsonl"), "test.jsonl", compare_with=first)["report"]
    assert report["leak"] == {"row_count": 1, "rows": [{"row": 1, "other_row": 3}], "file_id": first}
    response = upload(shared_api, bytes_of(TABLE, "csv"), "a.csv", compare_with="file-none")
    assert (response.status_code, response.json()["error"]["param"]) == (404, "compare_with")


def test_token_lengths_are_reported_for_a_base_model_in_the_store(shared_api: Api) -> None:
    lengths = uploaded(shared_api, b"question,answer\nab,c_1\n", "a.csv", base_model=BASE)["report"]["token_lengths"]
    assert (lengths["base_model"], lengths["rows"], lengths["max"], lengths["truncated"]) == (BASE, 1, 8, 0)
    response = upload(shared_api, b"question,answer\nab,c_1\n", "a.csv", base_model="nothing")
    assert (response.status_code, response.json()["error"]["param"]) == (404, "base_model")


@pytest.mark.parametrize(
    "fields",
    [
        {"columns": "{"},
        {"columns": "[]"},
        {"columns": "[" * 9_000},
        {"columns": '{"question":"\\ud800","answer":"answer"}'},
        {"columns": '{"question": "a", "question": "question", "answer": "answer"}'},
        {"columns": "{}", "dataset_info": "{}"},
        {"colums": "{}"},
        {"dataset_info": '{"a":5}'},
        {"encoding": "latin-1"},
        {"encoding": "\ud800".encode("utf-8", "replace").decode()},
    ],
)
def test_a_wrong_field_is_refused_by_its_name_and_nothing_is_kept(api: Api, fields: dict[str, str]) -> None:
    response = upload(api, bytes_of(TABLE, "csv"), "a.csv", **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] in fields
    assert kept(api) == []


@pytest.mark.parametrize("fields", [{"rare_code_rows": "0"}, {"rare_code_rows": "x"}, {"encoding": "x" * 40}])
def test_a_malformed_field_is_422(shared_api: Api, fields: dict[str, str]) -> None:
    response = upload(shared_api, bytes_of(TABLE, "csv"), "a.csv", **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (422, next(iter(fields)))


def test_bad_rows_of_a_table_are_listed_and_nothing_is_kept(api: Api) -> None:
    error = upload(api, b"question,answer\nq,a\nq\n,b\n", "a.csv").json()["error"]
    assert [one["row"] for one in error["details"]["report"]["errors"]] == [3, 4]
    assert error["details"]["row"] == 3
    assert kept(api) == []


def test_a_deleted_file_takes_its_rows_with_it(api: Api) -> None:
    file_id = uploaded(api, bytes_of(TABLE, "xlsx"), "a.xlsx")["id"]
    assert kept(api) == [file_id, rows_key(file_id)]
    assert api.client.delete(f"/v1/files/{file_id}").status_code == 200
    assert kept(api) == []
