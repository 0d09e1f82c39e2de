import json
from pathlib import Path
from typing import Any

import pytest

from app.db.unit_of_work import unit_of_work
from app.evaluations import service
from app.jobs import leases
from app.jobs.models import Job
from tests.fixtures.api import BASE, WEIGHTLESS, Api
from tests.fixtures.db import failing_commits
from tests.fixtures.queue import insert_adapter, must_claim, read_job, row_count


def post(api: Api, **fields: Any) -> Any:
    return api.client.post("/v1/evaluations", json={"model": BASE, "file": api.file_id(purpose="evals"), **fields})


def keep_rows(api: Api, key: str) -> bytes:
    rows = json.dumps({"question": "问", "match": True}).encode() + b"\n"
    path = api.settings.blobs_dir / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rows)
    return rows


def test_an_evaluation_is_queued_and_readable_at_once(api: Api) -> None:
    created = post(api, max_rows=2).json()

    assert (created["object"], created["status"], created["metrics"]) == ("evaluation", "queued", None)
    assert api.client.get(f"/v1/evaluations/{created['id']}").json() == created
    assert api.bell.rung == [created["job"]]


def test_an_evaluation_keeps_what_its_alias_stood_for(api: Api) -> None:
    first, second = insert_adapter(api.engine, checksum="a" * 64), insert_adapter(api.engine)
    api.client.put("/v1/aliases/telecom@production", json={"to": first})
    created = post(api, model="telecom@production").json()
    api.client.put("/v1/aliases/telecom@production", json={"to": second})

    body = api.client.get(f"/v1/evaluations/{created['id']}").json()

    assert (body["model"], body["adapter"], body["base_model"]) == ("telecom@production", first, BASE)
    assert read_job(api.engine, created["job"]).spec["adapter_checksum"] == "a" * 64


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"model": WEIGHTLESS}, 404, "model"),
        ({"file": "file-none"}, 404, "file"),
        ({"max_rows": 0}, 422, "max_rows"),
        ({"rows": 5}, 422, "rows"),
    ],
)
def test_a_wrong_request_is_refused_and_queues_nothing(api: Api, fields: dict[str, Any], status: int, param: str) -> None:
    response = post(api, **fields)

    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert row_count(api.engine, Job) == 0


def test_evaluations_are_listed_newest_first_page_by_page(api: Api) -> None:
    made = [post(api).json()["id"] for _ in range(3)]

    first = api.client.get("/v1/evaluations", params={"limit": 2}).json()
    second = api.client.get("/v1/evaluations", params={"limit": 2, "after": first["last_id"]}).json()

    assert [item["id"] for item in first["data"] + second["data"]] == made[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_queued_evaluation_is_cancelled_at_once(api: Api) -> None:
    evaluation_id = post(api).json()["id"]

    assert api.client.post(f"/v1/evaluations/{evaluation_id}/cancel").json()["status"] == "cancelled"


def test_a_second_cancel_is_a_conflict(api: Api) -> None:
    evaluation_id = post(api).json()["id"]
    api.client.post(f"/v1/evaluations/{evaluation_id}/cancel")

    assert api.client.post(f"/v1/evaluations/{evaluation_id}/cancel").status_code == 409


def test_an_evaluation_without_rows_yet_says_so(api: Api) -> None:
    evaluation_id = post(api).json()["id"]

    response = api.client.get(f"/v1/evaluations/{evaluation_id}/rows")

    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")


def test_a_finished_evaluation_shows_its_metrics_and_rows(api: Api) -> None:
    evaluation_id = post(api).json()["id"]
    lease = must_claim(api.engine)
    rows = keep_rows(api, "evaluations/e-1")
    with unit_of_work(api.engine) as session:
        assert service.finish(session, lease, metrics={"rows": 1, "exact_match": 1.0}, rows_key="evaluations/e-1")

    body = api.client.get(f"/v1/evaluations/{evaluation_id}").json()

    assert (body["status"], body["metrics"]) == ("succeeded", {"rows": 1, "exact_match": 1.0})
    assert api.client.get(f"/v1/evaluations/{evaluation_id}/rows").content == rows


def test_a_fenced_worker_publishes_no_metrics(api: Api) -> None:
    evaluation_id = post(api).json()["id"]
    stale = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        leases.interrupt(session, stale, reason="lost.")

    with unit_of_work(api.engine) as session:
        assert not service.finish(session, stale, metrics={"exact_match": 1.0}, rows_key="k")

    assert api.client.get(f"/v1/evaluations/{evaluation_id}").json()["metrics"] is None


def test_the_file_of_an_unfinished_evaluation_is_not_deleted(api: Api) -> None:
    body = post(api).json()

    response = api.client.delete(f"/v1/files/{body['file']}")

    assert response.status_code == 409
    assert body["job"] in response.json()["error"]["message"]


def test_a_commit_that_fails_queues_nothing(api: Api) -> None:
    file_id = api.file_id()
    with failing_commits(api.engine):
        response = api.client.post("/v1/evaluations", json={"model": BASE, "file": file_id})

    assert response.status_code == 500
    assert (row_count(api.engine, Job), api.bell.rung) == (0, [])


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/cancel"), ("GET", "/rows")])
def test_an_unknown_evaluation_is_404(api: Api, method: str, path: str) -> None:
    assert api.client.request(method, f"/v1/evaluations/eval-none{path}").status_code == 404


def test_rows_that_vanished_from_the_store_are_an_error_and_no_torn_stream(api: Api, tmp_path: Path) -> None:
    evaluation_id = post(api).json()["id"]
    lease = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        service.finish(session, lease, metrics={}, rows_key="evaluations/gone")

    response = api.client.get(f"/v1/evaluations/{evaluation_id}/rows")

    assert response.status_code == 500
