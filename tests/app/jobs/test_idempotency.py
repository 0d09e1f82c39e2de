"""`Idempotency-Key` of whatever is made of jobs: one code, so one suite. Jobs themselves: `test_endpoints`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.datasets.models import Dataset
from app.jobs.models import IdempotencyKey, Job
from tests.app.experiments.experiment_help import HYPERPARAMETERS, MANY
from tests.fixtures.api import BASE, Api
from tests.fixtures.queue import insert_adapter, row_count

MakeBody = Callable[[Api], dict[str, Any]]


def evaluation(api: Api) -> dict[str, Any]:
    return {"model": BASE, "file": api.file_id(purpose="evals")}


def export(api: Api) -> dict[str, Any]:
    return {"model": insert_adapter(api.engine), "format": "peft"}


def experiment(api: Api) -> dict[str, Any]:
    return {
        "model": BASE,
        "training_file": api.file_id(content=MANY),
        "test_file": api.file_id(purpose="evals"),
        "hyperparameters": HYPERPARAMETERS,
        "vary": {"kind": "ramp", "sizes": [8, 20]},
    }


def stored(api: Api) -> int:
    """Counts the blobs of files."""
    return len(list((api.settings.blobs_dir / "files").iterdir()))


KINDS = pytest.mark.parametrize(
    ("path", "make_body", "other"),
    [
        ("/v1/evaluations", evaluation, {"max_rows": 1}),
        ("/v1/exports", export, {"format": "merged"}),
        ("/v1/experiments", experiment, {"seed": 9}),
    ],
    ids=["evaluation", "export", "experiment"],
)


@KINDS
def test_the_same_key_and_body_make_one_thing(api: Api, path: str, make_body: MakeBody, other: dict[str, Any]) -> None:
    body = make_body(api)

    first = api.post(path, body, key="k-1")
    rung, files = list(api.bell.rung), row_count(api.engine, Dataset)
    second = api.post(path, body, key="k-1")

    assert (first.status_code, second.status_code) == (200, 200), first.text
    assert first.json() == second.json()
    assert (api.bell.rung, row_count(api.engine, Dataset)) == (rung, files)
    assert [one["id"] for one in api.client.get(path).json()["data"]] == [first.json()["id"]]


@KINDS
def test_the_same_key_with_another_body_is_refused(api: Api, path: str, make_body: MakeBody, other: dict[str, Any]) -> None:
    body = make_body(api)
    api.post(path, body, key="k-1")

    response = api.post(path, body | other, key="k-1")

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert "Use a new key" in error["message"]
    assert len(api.client.get(path).json()["data"]) == 1


@KINDS
def test_many_requests_at_once_with_one_key_make_one_thing(
    api: Api, path: str, make_body: MakeBody, other: dict[str, Any]
) -> None:
    body = make_body(api)

    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(lambda _: api.post(path, body, key="k-1"), range(12)))

    assert [response.status_code for response in responses] == [200] * 12
    assert len({response.json()["id"] for response in responses}) == 1
    assert len(api.client.get(path).json()["data"]) == 1
    assert len(api.bell.rung) == row_count(api.engine, Job)


def test_whoever_cuts_rows_in_vain_stores_none_of_them(api: Api) -> None:
    body = experiment(api)
    before = stored(api)
    api.post("/v1/experiments", body)
    of_one = stored(api) - before

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: api.post("/v1/experiments", body, key="k-1"), range(6)))

    assert stored(api) - before == 2 * of_one


@KINDS
def test_of_two_bodies_that_race_with_one_key_one_is_refused(
    api: Api, path: str, make_body: MakeBody, other: dict[str, Any]
) -> None:
    body = make_body(api)

    with ThreadPoolExecutor(12) as pool:
        bodies = [body, body | other] * 6
        responses = list(pool.map(lambda one: api.post(path, one, key="k-1"), bodies))

    made = {response.json()["id"] for response in responses if response.status_code == 200}
    statuses = [response.status_code for response in responses]
    assert sorted(statuses[:2]) == [200, 422]
    assert statuses[:2] * 6 == statuses, "equal bodies are answered alike"
    assert len(made) == 1


@KINDS
def test_a_refused_request_uses_no_key_up(api: Api, path: str, make_body: MakeBody, other: dict[str, Any]) -> None:
    body = make_body(api)

    assert api.post(path, body | {"model": "nobody"}, key="k-1").status_code == 404
    assert api.post(path, body, key="k-1").status_code == 200


def test_one_key_may_make_one_thing_of_each_kind(api: Api) -> None:
    made = [
        api.post("/v1/evaluations", evaluation(api), key="k-1").json()["object"],
        api.post("/v1/exports", export(api), key="k-1").json()["object"],
        api.post("/v1/experiments", experiment(api), key="k-1").json()["object"],
        api.post_job(api.file_id(), key="k-1").json()["object"],
    ]

    assert made == ["evaluation", "export", "experiment", "fine_tuning.job"]
    assert row_count(api.engine, IdempotencyKey) == 4


def test_what_is_deleted_can_be_made_again_with_its_key(api: Api) -> None:
    body = export(api)
    first = api.post("/v1/exports", body, key="k-1").json()["id"]
    api.client.post(f"/v1/exports/{first}/cancel")
    api.client.delete(f"/v1/exports/{first}")

    second = api.post("/v1/exports", body, key="k-1")

    assert (second.status_code, second.json()["id"] == first) == (200, False)
