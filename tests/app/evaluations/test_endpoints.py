from typing import Any

import pytest

from app.db.unit_of_work import unit_of_work
from app.evaluations import service
from app.evaluations.models import EvaluationRow
from app.jobs import leases
from app.jobs import service as jobs
from app.jobs.leases import Lease
from app.jobs.models import Job
from app.ml.evaluated_rows import EvaluatedRow
from tests.fixtures.api import BASE, WEIGHTLESS, Api
from tests.fixtures.db import failing_commits
from tests.fixtures.queue import insert_adapter, insert_file, insert_job, must_claim, read_events, read_job, row_count


def post(api: Api, **fields: Any) -> Any:
    return api.client.post("/v1/evaluations", json={"model": BASE, "file": api.file_id(purpose="evals"), **fields})


def row(number: int, given: str, expected: str) -> EvaluatedRow:
    return EvaluatedRow(
        row=number,
        question=f"问{number}",
        expected=(expected,),
        given=(given,),
        code_confidences=(0.75,),
        confidence=0.75,
        in_vocabulary=True,
        fallback=None,
        latency_ms=4.5,
        passes=2,
        slices={"code_count": "1"},
    )


def keep(api: Api, lease: Lease, *rows: EvaluatedRow) -> bool:
    with unit_of_work(api.engine) as session:
        return service.keep_rows(session, lease, rows)


def rows_of(api: Api, evaluation_id: str, **query: Any) -> Any:
    return api.client.get(f"/v1/evaluations/{evaluation_id}/rows", params=query).json()


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
        ({"model": "ftckpt-none"}, 404, "model"),
        ({"threshold": 0.5, "precision": 0.9}, 400, "precision"),
        ({"precision": 1.0}, 422, "precision"),
        ({"decide_by": "chance"}, 422, "decide_by"),
        ({"decide_by": "set", "precision": 0.9}, 400, "decide_by"),
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


def test_a_finished_evaluation_shows_its_metrics(api: Api) -> None:
    evaluation_id = post(api).json()["id"]
    lease = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        assert service.finish(session, lease, metrics={"rows": 1, "exact_match": 1.0})

    body = api.client.get(f"/v1/evaluations/{evaluation_id}").json()

    assert (body["status"], body["metrics"]) == ("succeeded", {"rows": 1, "exact_match": 1.0})


def test_rows_are_shown_as_soon_as_they_are_answered(api: Api) -> None:
    evaluation_id = post(api).json()["id"]
    assert rows_of(api, evaluation_id)["data"] == []

    assert keep(api, must_claim(api.engine), row(2, "取消方式_1", "取消方式_13"))

    (shown,) = rows_of(api, evaluation_id)["data"]
    assert (shown["id"], shown["row"], shown["question"]) == ("2", 2, "问2")
    assert (shown["expected"], shown["given"], shown["match"]) == (["取消方式_13"], ["取消方式_1"], False)
    assert (shown["confidence"], shown["latency_ms"], shown["slices"]) == (0.75, 4.5, {"code_count": "1"})


def test_rows_are_listed_page_by_page_in_the_files_order(api: Api) -> None:
    evaluation_id = post(api).json()["id"]
    lease = must_claim(api.engine)
    keep(api, lease, row(3, "a", "a"), row(10, "a", "b"))
    keep(api, lease, row(1, "a", "b"), row(2, "a", "a"))

    first = rows_of(api, evaluation_id, limit=3)
    second = rows_of(api, evaluation_id, limit=3, after=first["last_id"])

    assert [one["row"] for one in first["data"]] == [1, 2, 3]
    assert [one["row"] for one in second["data"]] == [10]
    assert (first["has_more"], second["has_more"]) == (True, False)


@pytest.mark.parametrize(("wrong", "expected"), [("true", [1, 10]), ("false", [2, 3])])
def test_the_wrong_rows_can_be_asked_for_alone(api: Api, wrong: str, expected: list[int]) -> None:
    evaluation_id = post(api).json()["id"]
    keep(api, must_claim(api.engine), row(1, "a", "b"), row(2, "a", "a"), row(3, "a", "a"), row(10, "a", "b"))

    assert [one["row"] for one in rows_of(api, evaluation_id, wrong=wrong)["data"]] == expected


@pytest.mark.parametrize("after", ["x", "-1", "9" * 12])
def test_rows_go_on_after_a_number_alone(api: Api, after: str) -> None:
    evaluation_id = post(api).json()["id"]

    assert api.client.get(f"/v1/evaluations/{evaluation_id}/rows", params={"after": after}).status_code == 400


def test_rows_that_are_kept_are_a_sign_of_progress(api: Api) -> None:
    job_id = post(api).json()["job"]
    for _ in range(5):
        lease = must_claim(api.engine)
        keep(api, lease, row(lease.fence, "a", "a"))
        with unit_of_work(api.engine) as session:
            leases.interrupt(session, lease, reason="killed.")

    assert read_job(api.engine, job_id).status == "interrupted"


def test_a_fenced_worker_keeps_no_rows(api: Api) -> None:
    evaluation_id = post(api).json()["id"]
    stale = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        leases.interrupt(session, stale, reason="lost.")

    assert not keep(api, stale, row(1, "a", "a"))
    assert rows_of(api, evaluation_id)["data"] == []


def test_a_checkpoint_can_be_evaluated(api: Api) -> None:
    job_id = insert_job(api.engine, training_file_id=insert_file(api.engine))
    lease = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        jobs.record_checkpoint(session, lease, step=4, blob_key="checkpoints/x", checksum="c" * 64, metrics={"step": 4})
    (checkpoint,) = api.client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints").json()["data"]

    body = post(api, model=checkpoint["id"]).json()

    assert (body["model"], body["checkpoint"], body["adapter"], body["base_model"]) == (
        checkpoint["id"],
        checkpoint["id"],
        None,
        BASE,
    )


def test_a_wished_precision_is_kept_for_the_worker(api: Api) -> None:
    body = post(api, precision=0.9).json()

    assert (body["precision"], body["threshold"]) == (0.9, None)


def test_how_answers_are_chosen_is_kept_for_the_worker(api: Api) -> None:
    plain, chosen = post(api).json(), post(api, decide_by="expected_f1").json()

    assert (plain["decide_by"], chosen["decide_by"]) == ("answer", "expected_f1")
    assert read_job(api.engine, chosen["job"]).spec["decide_by"] == "expected_f1"


def test_an_evaluation_of_before_there_was_a_choice_took_the_likeliest_answers(api: Api) -> None:
    body = post(api).json()
    with unit_of_work(api.engine) as session:
        job = session.get_one(Job, body["job"])
        job.spec = {name: value for name, value in job.spec.items() if name != "decide_by"}

    assert api.client.get(f"/v1/evaluations/{body['id']}").json() == body


def test_a_fenced_worker_publishes_no_metrics(api: Api) -> None:
    evaluation_id = post(api).json()["id"]
    stale = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        leases.interrupt(session, stale, reason="lost.")

    with unit_of_work(api.engine) as session:
        assert not service.finish(session, stale, metrics={"exact_match": 1.0})

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


def test_a_deleted_evaluation_takes_its_rows_and_its_job_along(api: Api) -> None:
    kept, gone = post(api).json(), post(api).json()
    for _ in range(2):
        lease = must_claim(api.engine)
        keep(api, lease, row(1, "a", "a"), row(2, "a", "b"))
        with unit_of_work(api.engine) as session:
            assert service.finish(session, lease, metrics={"rows": 2})

    response = api.client.delete(f"/v1/evaluations/{gone['id']}")

    assert response.json() == {"id": gone["id"], "object": "evaluation", "deleted": True}
    assert api.client.get(f"/v1/evaluations/{gone['id']}").status_code == 404
    assert [one["id"] for one in api.client.get("/v1/evaluations").json()["data"]] == [kept["id"]]
    assert len(rows_of(api, kept["id"])["data"]) == row_count(api.engine, EvaluationRow) == 2
    assert row_count(api.engine, Job) == 1
    assert {event.job_id for event in read_events(api.engine, gone["job"])} == set()


def test_an_unfinished_evaluation_is_not_deleted(api: Api) -> None:
    path = f"/v1/evaluations/{post(api).json()['id']}"

    refused = api.client.delete(path)

    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
    assert "Cancel it first" in refused.json()["error"]["message"]
    api.client.post(f"{path}/cancel")
    assert api.client.delete(path).status_code == 200


def test_an_evaluation_that_is_being_cancelled_is_not_deleted_before_its_end(api: Api) -> None:
    path = f"/v1/evaluations/{post(api).json()['id']}"
    lease = must_claim(api.engine)
    api.client.post(f"{path}/cancel")

    assert api.client.delete(path).status_code == 409
    with unit_of_work(api.engine) as session:
        assert jobs.fail(session, lease, code="x", message="x", param=None)
    assert api.client.delete(path).status_code == 200


def test_a_deletion_stands_in_the_audit_log(api: Api) -> None:
    made = post(api).json()
    api.client.post(f"/v1/evaluations/{made['id']}/cancel")
    api.client.delete(f"/v1/evaluations/{made['id']}")

    entry = api.client.get("/v1/audit").json()["data"][0]
    assert (entry["act"], entry["target"]) == ("evaluation.deleted", made["id"])
    assert entry["details"] == {"model": BASE, "file": made["file"]}


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/cancel"), ("GET", "/rows"), ("DELETE", "")])
def test_an_unknown_evaluation_is_404(api: Api, method: str, path: str) -> None:
    assert api.client.request(method, f"/v1/evaluations/eval-none{path}").status_code == 404
