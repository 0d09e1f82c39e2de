import hashlib
import json
from pathlib import Path

import pytest

from app.datasets.models import Dataset
from tests.fixtures.api import ROWS, Api, alpaca, alpaca_lines, running_api
from tests.fixtures.db import Databases, failing_commits, unheard_commits
from tests.fixtures.queue import insert_file, insert_job, row_count


def kept_files(api: Api) -> list[str]:
    """Returns every file under the blob folder and the uploads folder."""
    folders = (api.settings.blobs_dir, api.settings.data_dir / "uploads")
    return sorted(path.name for folder in folders for path in folder.rglob("*") if not path.is_dir())


def leftovers(api: Api) -> list[str]:
    return sorted(path.name for path in (api.settings.data_dir / "uploads").iterdir())


def bad_rows(**row: object) -> bytes:
    return alpaca((ROWS[0], row))


def test_an_alpaca_array_is_stored_and_described(api: Api) -> None:
    content = alpaca()

    response = api.upload(content, name="telecom.json")

    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "file" and body["status"] == "processed" and body["purpose"] == "fine-tune"
    assert (body["filename"], body["bytes"]) == ("telecom.json", len(content))
    assert body["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_reply_has_the_validation_report(api: Api) -> None:
    report = api.upload().json()["report"]

    assert report["rows"] == 3
    assert report["distinct_codes"] == 4
    assert report["categories"] == {"取消方式": 1, "业务简介": 1, "value": 1, "开通方式": 1}
    assert report["question_chars_max"] == 10


def test_json_lines_are_read_like_an_array(api: Api) -> None:
    assert api.upload(alpaca_lines()).json()["report"] == api.upload(alpaca()).json()["report"]


def test_a_question_with_two_answers_is_reported_and_accepted(api: Api) -> None:
    rows = ({"instruction": "问", "output": "甲_1"}, {"instruction": "问", "output": "乙_2"})

    report = api.upload(alpaca(rows)).json()["report"]

    assert report["conflicting_rows"] == [{"row": 2, "conflicts_with_row": 1}]


def test_the_purpose_eval_becomes_evals(api: Api) -> None:
    assert api.upload(purpose="eval").json()["purpose"] == "evals"


def test_an_unknown_purpose_is_refused(api: Api) -> None:
    response = api.upload(purpose="assistants")

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "purpose"
    assert kept_files(api) == []


def test_a_files_content_comes_back_byte_for_byte(api: Api) -> None:
    content = alpaca()
    file_id = api.file_id(content=content)

    response = api.client.get(f"/v1/files/{file_id}/content")

    assert response.content == content
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_file_reads_back_as_it_was_returned(api: Api) -> None:
    created = api.upload().json()

    assert api.client.get(f"/v1/files/{created['id']}").json() == created


def test_files_are_listed_newest_first_page_by_page(api: Api) -> None:
    file_ids = [insert_file(api.engine, created_at=float(second)) for second in range(5)]
    pages, after = [], None
    while True:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = api.client.get("/v1/files", params=query).json()
        pages.append([item["id"] for item in page["data"]])
        if not page["has_more"]:
            break
        after = page["last_id"]

    assert pages == [file_ids[:2:-1], file_ids[2:0:-1], file_ids[:1]]


def test_files_are_listed_by_purpose(api: Api) -> None:
    insert_file(api.engine)
    wanted = insert_file(api.engine, purpose="evals")

    page = api.client.get("/v1/files", params={"purpose": "evals"}).json()

    assert [item["id"] for item in page["data"]] == [wanted]


def test_an_empty_list_has_no_ids(api: Api) -> None:
    page = api.client.get("/v1/files").json()

    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_cursor_that_names_no_file_is_refused(api: Api) -> None:
    response = api.client.get("/v1/files", params={"after": "file-none"})

    assert (response.status_code, response.json()["error"]["param"]) == (400, "after")


def test_a_deleted_file_is_gone_with_its_bytes(api: Api) -> None:
    file_id = api.file_id()

    response = api.client.delete(f"/v1/files/{file_id}")

    assert response.json() == {"id": file_id, "object": "file", "deleted": True}
    assert api.client.get(f"/v1/files/{file_id}").status_code == 404
    assert kept_files(api) == []


def test_a_second_deletion_finds_nothing(api: Api) -> None:
    file_id = api.file_id()
    api.client.delete(f"/v1/files/{file_id}")

    assert api.client.delete(f"/v1/files/{file_id}").status_code == 404


@pytest.mark.parametrize("column", ["training_file_id", "validation_file_id"])
def test_a_file_that_an_unfinished_job_needs_is_not_deleted(api: Api, column: str) -> None:
    file_id = api.file_id()
    job_id = insert_job(api.engine, **{column: file_id})

    response = api.client.delete(f"/v1/files/{file_id}")

    assert response.status_code == 409
    assert job_id in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"
    assert api.client.get(f"/v1/files/{file_id}/content").content == alpaca()


def test_a_file_can_be_deleted_once_its_job_has_ended(api: Api) -> None:
    file_id = api.file_id()
    job_id = api.post_job(file_id).json()["id"]
    api.client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")

    assert api.client.delete(f"/v1/files/{file_id}").status_code == 200


@pytest.mark.parametrize(
    ("content", "row", "field"),
    [
        (bad_rows(instruction="问"), 2, "output"),
        (bad_rows(instruction="", output="甲_1"), 2, "instruction"),
        (bad_rows(instruction="问", output="甲_1||乙_2"), 2, "output"),
        (bad_rows(instruction="问", output="甲_1|甲_1"), 2, "output"),
        (bad_rows(instruction=5, output="甲_1"), 2, "instruction"),
        (bad_rows(instruction="问\x00", output="甲_1"), 2, "instruction"),
        (alpaca_lines((ROWS[0], {"instruction": "问", "output": ""})), 2, "output"),
        (alpaca_lines((ROWS[0],)) + b"{oops\n", 2, None),
    ],
)
def test_a_wrong_row_is_named_with_its_field(api: Api, content: bytes, row: int, field: str | None) -> None:
    response = api.upload(content)

    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_dataset")
    assert error["details"]["row"] == row
    assert f"row {row}" in error["message"]
    assert error["param"] == (field or "file")


@pytest.mark.parametrize(
    "content",
    [
        bad_rows(instruction="问"),
        b"",
        b"[]",
        b"[{",
        b'[{"instruction": "a", "output": "b_1"}',
        b"\xff\xfe\x00",
        b"PK\x03\x04",
        b"[" * 100_000,
        b'{"instruction": ' * 10_000,
        b"1" * 5_000,
    ],
    ids=["bad row", "empty", "no rows", "torn", "torn after a row", "utf-16", "zip", "deep array", "deep lines", "digits"],
)
def test_a_refused_file_leaves_nothing_behind(api: Api, content: bytes) -> None:
    response = api.upload(content)

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_dataset"
    assert (kept_files(api), leftovers(api), row_count(api.engine, Dataset)) == ([], [], 0)


def test_every_wrong_row_is_in_the_report(api: Api) -> None:
    rows = ({"instruction": "问"}, ROWS[0], {"output": "甲_1"})

    report = api.upload(alpaca(rows)).json()["error"]["details"]["report"]

    assert [(error["row"], error["field"]) for error in report["errors"]] == [(1, "output"), (3, "instruction")]


def test_an_upload_leaves_nothing_in_the_uploads_folder(api: Api) -> None:
    file_id = api.file_id()

    assert leftovers(api) == []
    assert kept_files(api) and all(name.startswith(file_id) for name in kept_files(api))


@pytest.mark.parametrize("extra_bytes", [1, 1_000_000])
def test_a_file_over_the_limit_is_refused_and_not_kept(tmp_path: Path, databases: Databases, extra_bytes: int) -> None:
    with databases.database("sqlite") as url, running_api(tmp_path, url, max_upload_bytes=4096) as api:
        response = api.upload(b" " * (4096 + extra_bytes))

        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
        assert kept_files(api) == []


def test_a_file_of_exactly_the_limit_is_taken(tmp_path: Path, databases: Databases) -> None:
    with databases.database("sqlite") as url, running_api(tmp_path, url, max_upload_bytes=4096) as api:
        assert api.upload(alpaca().ljust(4096)).status_code == 200


def test_an_upload_may_be_larger_than_other_bodies(tmp_path: Path, databases: Databases) -> None:
    with databases.database("sqlite") as url, running_api(tmp_path, url, max_body_bytes=1024) as api:
        assert api.upload(alpaca().ljust(100_000)).status_code == 200


@pytest.mark.parametrize("name", ["../../../evil.json", "/etc/passwd", "a\\..\\b.json", "名字.json", "x" * 500])
def test_a_hostile_file_name_places_no_bytes(api: Api, name: str) -> None:
    file_id = api.file_id(name=name)

    beside_the_models = (path for path in api.settings.data_dir.rglob("*") if path.is_file() and "models" not in path.parts)
    placed = [path.name for path in beside_the_models if path.parent != api.settings.data_dir]
    assert placed and all(stored.startswith(file_id) for stored in placed)
    assert "/" not in api.client.get(f"/v1/files/{file_id}").json()["filename"]


def test_an_upload_without_a_file_is_refused(api: Api) -> None:
    response = api.client.post("/v1/files", data={"purpose": "fine-tune"})

    assert (response.status_code, response.json()["error"]["param"]) == (422, "file")


@pytest.mark.parametrize("method", ["get", "delete"])
def test_an_unknown_file_is_404(api: Api, method: str) -> None:
    response = api.client.request(method, "/v1/files/file-none")

    assert response.status_code == 404
    assert "file-none" in response.json()["error"]["message"]


def test_a_result_file_has_no_report_and_cannot_be_trained_on(api: Api) -> None:
    file_id = insert_file(api.engine, has_report=False)

    response = api.post_job(file_id)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "training_file"


def test_a_row_that_cannot_be_stored_takes_its_bytes_with_it(api: Api) -> None:
    with failing_commits(api.engine):
        response = api.upload()

    assert response.status_code == 500
    assert (kept_files(api), leftovers(api), row_count(api.engine, Dataset)) == ([], [], 0)


def test_an_upload_whose_commit_went_unheard_keeps_its_bytes(api: Api) -> None:
    if api.engine.dialect.name != "postgresql":
        pytest.skip("SQLite's replies are not lost: there is no network")
    with unheard_commits(api.engine):
        response = api.upload()

    assert (response.status_code, row_count(api.engine, Dataset)) == (503, 1)
    (listed,) = api.client.get("/v1/files").json()["data"]
    assert api.client.get(f"/v1/files/{listed['id']}/content").status_code == 200


def test_the_samples_that_are_shipped_are_accepted(api: Api) -> None:
    for sample in sorted(Path("samples").glob("*.json")):
        report = api.upload(sample.read_bytes(), name=sample.name).json()["report"]

        assert report["rows"] == len(json.loads(sample.read_text()))


def test_bytes_that_vanished_from_the_store_are_an_error_and_no_short_file(api: Api) -> None:
    file_id = insert_file(api.engine)

    assert api.client.get(f"/v1/files/{file_id}/content").status_code == 500


def test_a_list_of_files_carries_the_reports_numbers_and_not_its_lists(api: Api) -> None:
    file_id = api.file_id()

    (listed,) = api.client.get("/v1/files").json()["data"]
    whole = api.client.get(f"/v1/files/{file_id}").json()["report"]

    assert (listed["report"]["rows"], "codes" in listed["report"], len(whole["codes"])) == (3, False, 4)


def test_a_preview_shows_rows_as_jobs_read_them(api: Api) -> None:
    file_id = api.file_id()

    preview = api.client.get(f"/v1/files/{file_id}/preview", params={"offset": 1, "limit": 1}).json()

    assert preview["rows"] == 3
    assert preview["data"] == [{"row": 2, "question": "闪电宽带有什么业务", "codes": ["业务简介_111", "9.9"], "slices": {}}]


def test_a_result_has_no_preview(api: Api) -> None:
    file_id = insert_file(api.engine, has_report=False)

    response = api.client.get(f"/v1/files/{file_id}/preview")

    assert response.status_code == 400
    assert "Download it instead" in response.json()["error"]["message"]
