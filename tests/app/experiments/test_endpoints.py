import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.datasets.models import Dataset
from app.db.unit_of_work import unit_of_work
from app.experiments import service
from app.experiments.models import Experiment, ExperimentArm
from app.jobs import service as jobs
from app.jobs.models import Job
from tests.app.experiments.experiment_help import MANY, advance, finish_next, get, post
from tests.fixtures.api import BASE, WEIGHTLESS, Api
from tests.fixtures.db import failing_commits
from tests.fixtures.queue import insert_file, must_claim, read_job, row_count

RAMP = {"kind": "ramp", "sizes": [0, 8, 20, 40]}
GRID = {"kind": "hyperparameters", "grid": {"learning_rate": [1e-4, 1e-3]}}


def content(api: Api, file_id: str) -> list[Any]:
    return [json.loads(line) for line in api.client.get(f"/v1/files/{file_id}/content").content.splitlines()]


def test_a_ramp_queues_a_job_for_each_size_and_evaluates_the_base_model_at_once(api: Api) -> None:
    response = post(api, RAMP, seed=7, suffix="telecom", name="第一次")
    assert response.status_code == 200, response.text
    body = response.json()

    assert (body["object"], body["status"], body["name"], body["arms_ended"]) == ("experiment", "running", "第一次", 0)
    assert [(arm["label"], arm["training_rows"], arm["status"]) for arm in body["arms"]] == [
        ("base model", 0, "evaluating"),
        ("8 rows", 8, "queued"),
        ("20 rows", 20, "queued"),
        ("40 rows", 40, "queued"),
    ]
    assert body["arms"][3]["training_file"] == body["training_file"], "all rows need no copy"
    trained = [read_job(api.engine, arm["job"]) for arm in body["arms"][1:]]
    assert [job.suffix for job in trained] == ["telecom-2", "telecom-3", "telecom-4"]
    assert {job.seed for job in trained} == {7}
    assert trained[0].user_metadata == {"experiment": body["id"], "experiment_arm": "2"}
    assert get(api, body["id"]) == body
    assert len(api.bell.rung) == 4


def test_each_smaller_training_file_lies_within_the_next_larger(api: Api) -> None:
    arms = post(api, RAMP, seed=7).json()["arms"]
    parts = [{row["instruction"] for row in content(api, arm["training_file"])} for arm in arms[1:3]]
    assert parts[0] < parts[1]
    assert (len(parts[0]), len(parts[1])) == (8, 20)


def test_a_grid_gives_each_job_its_own_hyperparameters(api: Api) -> None:
    body = post(api, GRID).json()
    assert [arm["label"] for arm in body["arms"]] == ["learning_rate=0.0001", "learning_rate=0.001"]
    assert [read_job(api.engine, arm["job"]).spec["learning_rate"] for arm in body["arms"]] == [1e-4, 1e-3]
    assert {arm["training_file"] for arm in body["arms"]} == {body["training_file"]}


def test_base_models_may_vary(api: Api) -> None:
    body = post(api, {"kind": "base_models", "models": [BASE]}, model=None).json()
    assert [(arm["label"], arm["base_model"]) for arm in body["arms"]] == [(BASE, BASE)]


@pytest.mark.parametrize(
    ("vary", "fields", "status", "param"),
    [
        ({"kind": "ramp", "sizes": [41]}, {}, 400, "vary.sizes"),
        ({"kind": "ramp", "sizes": [-1]}, {}, 422, None),
        ({"kind": "ramp", "sizes": []}, {}, 422, None),
        ({"kind": "seeds"}, {}, 422, None),
        (RAMP, {"model": None}, 400, "model"),
        ({"kind": "base_models", "models": [BASE]}, {}, 400, "model"),
        ({"kind": "base_models", "models": [WEIGHTLESS]}, {"model": None}, 404, None),
        ({"kind": "hyperparameters", "grid": {"lora_rnk": [1]}}, {}, 400, "method.supervised.hyperparameters.lora_rnk"),
        ({"kind": "hyperparameters", "grid": {"learning_rate": [1e-4, 1e9]}}, {}, 400, None),
        (GRID, {"test_file": "file-none"}, 404, "test_file"),
        (GRID, {"training_file": "file-none"}, 404, None),
        (GRID, {"suffix": "!"}, 400, "suffix"),
    ],
)
def test_what_cannot_work_is_refused_whole(api: Api, vary: Any, fields: Any, status: int, param: str | None) -> None:
    training = api.file_id(content=MANY)
    response = post(api, vary, **{"training_file": training, **fields})

    assert response.status_code == status, response.text
    if param is not None:
        assert response.json()["error"]["param"] == param
    assert (row_count(api.engine, Job), row_count(api.engine, Experiment)) == (0, 0)


def test_a_commit_that_fails_leaves_neither_jobs_nor_files(api: Api) -> None:
    training, test = api.file_id(content=MANY), api.file_id(purpose="evals")
    before = sorted(path.name for path in (api.settings.blobs_dir / "files").iterdir())
    with failing_commits(api.engine):
        response = post(api, RAMP, training_file=training, test_file=test)

    assert response.status_code == 500
    assert (row_count(api.engine, Job), row_count(api.engine, Dataset), api.bell.rung) == (0, 2, [])
    assert sorted(path.name for path in (api.settings.blobs_dir / "files").iterdir()) == before


def test_an_arm_is_evaluated_once_it_is_trained_and_the_last_one_ends_the_experiment(api: Api) -> None:
    experiment_id = post(api, {"kind": "ramp", "sizes": [0, 8]}).json()["id"]
    kinds = []
    while (kind := finish_next(api, right=10)) is not None:
        kinds.append(kind)
        advance(api)

    assert sorted(kinds) == ["evaluation", "evaluation", "finetune"]
    body = get(api, experiment_id)
    assert (body["status"], body["arms_ended"]) == ("succeeded", 2)
    assert [arm["status"] for arm in body["arms"]] == ["succeeded", "succeeded"]
    assert body["finished_at"] is not None


def test_advancing_twice_changes_nothing(api: Api) -> None:
    post(api, GRID)
    for _ in range(2):
        finish_next(api)
    for _ in range(3):
        advance(api)

    assert row_count(api.engine, Job) == 4


def test_four_that_advance_at_once_queue_one_evaluation(api: Api) -> None:
    post(api, {"kind": "ramp", "sizes": [8]})
    finish_next(api)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: advance(api), range(8)))

    assert row_count(api.engine, Job) == 2


def test_a_worker_advances_the_experiment_of_the_job_that_it_has_ended(api: Api) -> None:
    body = post(api, GRID).json()
    finish_next(api)
    store = api.app.state.model_store

    service.advance_after_job(api.engine, body["arms"][0]["job"], store=store, bell=api.bell, max_unfinished=9)
    service.advance_after_job(api.engine, "ftjob-none", store=store, bell=api.bell, max_unfinished=9)

    assert [arm["status"] for arm in get(api, body["id"])["arms"]] == ["evaluating", "queued"]


def test_an_arm_that_fails_does_not_stop_the_others(api: Api) -> None:
    experiment_id = post(api, GRID).json()["id"]
    lease = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        jobs.fail(session, lease, code="non_finite_loss", message="The loss is NaN.", param="learning_rate")
    while finish_next(api, right=3) is not None:
        advance(api)

    body = get(api, experiment_id)
    assert body["status"] == "failed"
    assert [(arm["status"], arm["error"]) for arm in body["arms"]] == [("failed", "The loss is NaN."), ("succeeded", None)]


def test_an_arm_whose_evaluation_cannot_be_queued_says_why(api: Api) -> None:
    body = post(api, {"kind": "ramp", "sizes": [8]}).json()
    finish_next(api)
    with unit_of_work(api.engine) as session:
        session.delete(session.get_one(Dataset, body["test_file"]))
    advance(api)

    (arm,) = get(api, body["id"])["arms"]
    assert arm["status"] == "failed"
    assert body["test_file"] in arm["error"]


def test_a_full_queue_only_delays_an_evaluation(api: Api) -> None:
    body = post(api, {"kind": "ramp", "sizes": [8]}).json()
    finish_next(api)
    store = api.app.state.model_store
    service.advance_all(api.engine, store=store, bell=api.bell, max_unfinished=0)
    assert get(api, body["id"])["arms"][0]["status"] == "trained"

    advance(api)

    assert get(api, body["id"])["arms"][0]["status"] == "evaluating"


def test_cancelling_cancels_every_job_that_has_not_ended(api: Api) -> None:
    body = post(api, RAMP).json()
    running = must_claim(api.engine)

    cancelled = api.client.post(f"/v1/experiments/{body['id']}/cancel").json()

    assert cancelled["status"] == "cancelled"
    assert read_job(api.engine, running.job_id).wish == "cancel"
    assert {arm["status"] for arm in cancelled["arms"]} <= {"cancelled", "evaluating", "training"}
    assert api.client.post(f"/v1/experiments/{body['id']}/cancel").status_code == 409


def test_a_cancelled_experiment_queues_nothing_more(api: Api) -> None:
    body = post(api, {"kind": "ramp", "sizes": [8]}).json()
    finish_next(api)
    api.client.post(f"/v1/experiments/{body['id']}/cancel")
    advance(api)

    assert row_count(api.engine, Job) == 1


@pytest.mark.parametrize("name", ["training_file", "test_file"])
def test_the_files_of_a_running_experiment_are_not_deleted(api: Api, name: str) -> None:
    body = post(api, {"kind": "ramp", "sizes": [40]}).json()
    finish_next(api)

    response = api.client.delete(f"/v1/files/{body[name]}")

    assert response.status_code == 409
    assert body["id"] in response.json()["error"]["message"]


def test_a_deleted_experiment_takes_its_arms_along_and_leaves_what_they_made(api: Api) -> None:
    body = post(api, {"kind": "ramp", "sizes": [0, 8]}).json()
    while finish_next(api, right=10):
        advance(api)
    arms = get(api, body["id"])["arms"]

    response = api.client.delete(f"/v1/experiments/{body['id']}")

    assert response.json() == {"id": body["id"], "object": "experiment", "deleted": True}
    assert api.client.get(f"/v1/experiments/{body['id']}").status_code == 404
    assert row_count(api.engine, ExperimentArm) == 0
    left = [f"/v1/evaluations/{arm['evaluation']}" for arm in arms]
    left += [
        f"/v1/models/{arms[1]['adapter']}",
        f"/v1/fine_tuning/jobs/{arms[1]['job']}",
        f"/v1/files/{arms[1]['training_file']}",
    ]
    assert {api.client.get(path).status_code for path in left} == {200}
    entry = api.client.get("/v1/audit").json()["data"][0]
    assert (entry["act"], entry["target"]) == ("experiment.deleted", body["id"])


def test_an_experiment_is_deleted_only_once_all_of_its_jobs_have_ended(api: Api) -> None:
    path = f"/v1/experiments/{post(api, {'kind': 'ramp', 'sizes': [8]}).json()['id']}"
    lease = must_claim(api.engine)

    running = api.client.delete(path)
    api.client.post(f"{path}/cancel")
    still_ending = api.client.delete(path)
    with unit_of_work(api.engine) as session:
        assert jobs.fail(session, lease, code="x", message="x", param=None)

    assert (running.status_code, still_ending.status_code) == (409, 409)
    assert "Cancel it first" in running.json()["error"]["message"]
    assert lease.job_id in still_ending.json()["error"]["message"]
    assert api.client.delete(path).status_code == 200


def test_an_arms_evaluation_is_deleted_only_after_its_experiment(api: Api) -> None:
    body = post(api, {"kind": "ramp", "sizes": [0]}).json()
    finish_next(api)
    advance(api)
    path = f"/v1/evaluations/{body['arms'][0]['evaluation']}"

    refused = api.client.delete(path)

    assert refused.status_code == 409
    assert f"experiment {body['id']!r}" in refused.json()["error"]["message"]
    api.client.delete(f"/v1/experiments/{body['id']}")
    assert api.client.delete(path).status_code == 200


def test_a_deleted_experiment_can_be_made_again_with_its_key(api: Api) -> None:
    fields = {"training_file": api.file_id(content=MANY), "test_file": api.file_id(purpose="evals")}
    body = {"model": BASE, "vary": {"kind": "ramp", "sizes": [0]}, **fields}
    first = api.post("/v1/experiments", body, key="k-1").json()["id"]
    api.client.post(f"/v1/experiments/{first}/cancel")
    assert api.client.delete(f"/v1/experiments/{first}").status_code == 200

    assert api.post("/v1/experiments", body, key="k-1").json()["id"] != first


def test_experiments_are_listed_newest_first_page_by_page(api: Api) -> None:
    training = api.file_id(content=MANY)
    made = [post(api, GRID, training_file=training).json()["id"] for _ in range(3)]

    first = api.client.get("/v1/experiments", params={"limit": 2}).json()
    second = api.client.get("/v1/experiments", params={"limit": 2, "after": first["last_id"]}).json()

    assert [item["id"] for item in first["data"] + second["data"]] == made[::-1]


@pytest.mark.parametrize("what", ["", "/comparison", "/comparison.csv", "/report"])
def test_an_unknown_experiment_is_404(api: Api, what: str) -> None:
    assert api.client.get(f"/v1/experiments/exp-none{what}").status_code == 404


def test_an_experiment_that_is_not_there_is_not_deleted(api: Api) -> None:
    assert api.client.delete("/v1/experiments/exp-none").status_code == 404


def test_a_result_file_is_no_test_file(api: Api) -> None:
    response = post(api, GRID, test_file=insert_file(api.engine, has_report=False))

    assert (response.status_code, response.json()["error"]["param"]) == (400, "test_file")
