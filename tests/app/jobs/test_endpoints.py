from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.db.unit_of_work import unit_of_work
from app.jobs import leases, service
from app.jobs.models import IdempotencyKey, Job, JobEvent
from app.jobs.states import TERMINAL, JobStatus
from app.ml.spec import PRESETS
from tests.fixtures.api import BASE, WEIGHTLESS, Api, running_api
from tests.fixtures.db import Databases, failing_commits
from tests.fixtures.queue import insert_job, must_claim, read_job, row_count
from tests.fixtures.tiny import TINY

JOBS = "/v1/fine_tuning/jobs"
HYPERPARAMETERS = "method.supervised.hyperparameters."


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) - {"details"} == {"message", "type", "param", "code"}
    return error


def pages_of(api: Api, path: str, **query: Any) -> list[list[dict[str, Any]]]:
    pages, after = [], None
    while True:
        page = api.client.get(path, params={**query, **({"after": after} if after else {})}).json()
        pages.append(page["data"])
        if not page["has_more"]:
            return pages
        after = page["last_id"]


class TestCreating:
    def test_a_job_is_queued_and_its_bell_rung_after_the_commit(self, api: Api) -> None:
        body = api.post_job(api.file_id()).json()

        assert (body["object"], body["status"], body["queue_position"]) == ("fine_tuning.job", "queued", 0)
        assert api.bell.rung == [body["id"]]

    def test_a_job_can_be_read_back_at_once(self, api: Api) -> None:
        created = api.post_job(api.file_id(), metadata={"team": "care"}, suffix="telecom", seed=7).json()

        assert api.client.get(f"{JOBS}/{created['id']}").json() == created

    def test_llama_factorys_names_are_taken(self, api: Api) -> None:
        method = supervised(lora_rank=8, use_dora=True, loraplus_lr_ratio=16.0, lora_target="q_proj,v_proj")

        body = api.post_job(api.file_id(), method=method).json()

        spec = body["spec"]
        assert (spec["lora_rank"], spec["use_dora"], spec["loraplus_lr_ratio"]) == (8, True, 16.0)
        assert spec["lora_target"] == ["q_proj", "v_proj"]
        assert body["method"] == method

    def test_openais_names_are_taken(self, api: Api) -> None:
        body = api.post_job(api.file_id(), method=supervised(n_epochs=2, batch_size=4, learning_rate_multiplier="auto")).json()

        assert (body["spec"]["num_train_epochs"], body["spec"]["per_device_train_batch_size"]) == (2.0, 4)
        assert (body["hyperparameters"]["n_epochs"], body["hyperparameters"]["batch_size"]) == (2, 4)

    def test_without_a_preset_auto_is_used(self, api: Api) -> None:
        assert api.post_job(api.file_id()).json()["spec"] == PRESETS["auto"].to_mapping()

    def test_a_deployment_may_have_another_default_preset(self, tmp_path: Path, databases: Databases) -> None:
        with databases.database("sqlite") as url, running_api(tmp_path, url, default_preset="quick") as api:
            file_id = api.file_id()
            job = api.post_job(file_id).json()
            named = api.post_job(file_id, method=supervised(preset="direct")).json()
            ramp = {"model": BASE, "training_file": file_id, "test_file": file_id, "vary": {"kind": "ramp", "sizes": [2]}}
            arms = api.post("/v1/experiments", ramp).json()["arms"]
            varied = [api.client.get(f"{JOBS}/{arm['job']}").json() for arm in arms if arm["job"]]

        assert job["spec"] == PRESETS["quick"].to_mapping()
        assert named["spec"] == PRESETS["direct"].to_mapping()
        assert [one["spec"] for one in varied] == [PRESETS["quick"].to_mapping()]

    @pytest.mark.parametrize("needing", [{"load_best_model_at_end": True}, {"early_stopping_patience": 2}])
    @pytest.mark.parametrize("query", ["", "?dry_run=true"])
    def test_what_needs_held_out_rows_is_refused_without_them(self, api: Api, needing: dict[str, Any], query: str) -> None:
        body = {"model": TINY, "training_file": api.file_id(), "method": supervised(**needing)}

        refused = api.client.post(f"{JOBS}{query}", json=body)

        assert (refused.status_code, error_of(refused)["param"]) == (400, "validation_file")

    def test_what_needs_held_out_rows_is_taken_with_them(self, api: Api) -> None:
        file_id, method = api.file_id(), supervised(load_best_model_at_end=True, early_stopping_patience=2)

        response = api.post_job(file_id, validation_file=file_id, method=method)

        assert response.status_code == 200, response.text

    @pytest.mark.parametrize(
        ("hyperparameters", "name"),
        [
            ({"lora_rnak": 8}, "lora_rnak"),
            ({"metric_for_best_model": "loss"}, "metric_for_best_model"),
            ({"load_best_model_at_end": True, "eval_strategy": "no"}, "eval_strategy"),
            ({"lora_rank": 0}, "lora_rank"),
            ({"lora_rank": "8"}, "lora_rank"),
            ({"use_dora": 1}, "use_dora"),
            ({"learning_rate": 1e-99}, "learning_rate"),
            ({"lora_target": ["os.system"]}, "lora_target"),
            ({"preset": "fastest"}, "preset"),
            ({"n_epochs": 1, "num_train_epochs": 1}, "n_epochs"),
        ],
    )
    def test_a_wrong_hyperparameter_is_named(self, api: Api, hyperparameters: dict[str, Any], name: str) -> None:
        response = api.post_job(api.file_id(), method=supervised(**hyperparameters))

        assert response.status_code == 400
        assert error_of(response)["param"] == HYPERPARAMETERS + name
        assert error_of(response)["code"] == "invalid_hyperparameter"
        assert row_count(api.engine, Job) == 0

    @pytest.mark.parametrize("field", ["training_file", "validation_file"])
    def test_an_unknown_file_is_named(self, api: Api, field: str) -> None:
        fields = {"validation_file": "file-none"} if field == "validation_file" else {}

        response = api.post_job(api.file_id() if fields else "file-none", **fields)

        assert (response.status_code, error_of(response)["param"]) == (404, field)
        assert "file-none" in error_of(response)["message"]

    def test_an_unknown_base_model_is_refused_with_the_known_ones(self, api: Api) -> None:
        response = api.post_job(api.file_id(), model="gpt-5")

        assert (response.status_code, error_of(response)["param"]) == (404, "model")
        assert "tiny-gemma" in error_of(response)["message"]

    def test_missing_weights_say_what_to_do(self, api: Api) -> None:
        response = api.post_job(api.file_id(), model=WEIGHTLESS)

        assert (response.status_code, error_of(response)["code"]) == (404, "base_model_missing")
        assert f"dianda models import {WEIGHTLESS}" in error_of(response)["message"]

    @pytest.mark.parametrize("suffix", ["a b", "a/b", "a:1", "a@b", "-a", "", "数据", "a" * 64 + "\n"])
    def test_an_unusable_suffix_is_refused(self, api: Api, suffix: str) -> None:
        response = api.post_job(api.file_id(), suffix=suffix)

        assert response.status_code in (400, 422)
        assert error_of(response)["param"] == "suffix"

    def test_a_full_queue_is_429_with_a_time_to_wait(self, tmp_path: Path, databases: Databases) -> None:
        with databases.database("sqlite") as url, running_api(tmp_path, url, max_queued_jobs=2) as api:
            file_id = api.file_id()
            api.post_job(file_id)
            api.post_job(file_id)

            response = api.post_job(file_id)

            assert (response.status_code, error_of(response)["code"]) == (429, "queue_full")
            assert int(response.headers["retry-after"]) > 0
            assert "x-should-retry" not in response.headers

    def test_an_ended_job_makes_room_in_the_queue(self, tmp_path: Path, databases: Databases) -> None:
        with databases.database("sqlite") as url, running_api(tmp_path, url, max_queued_jobs=1) as api:
            job_id = api.job_id()
            api.client.post(f"{JOBS}/{job_id}/cancel")

            assert api.post_job(api.file_id()).status_code == 200

    def test_a_commit_that_fails_is_a_500_without_a_row_or_a_bell(self, api: Api) -> None:
        file_id = api.file_id()

        with failing_commits(api.engine):
            response = api.post_job(file_id, key="k-1")

        assert response.status_code == 500
        assert error_of(response)["code"] == "internal"
        assert "no space left" not in response.text
        assert (row_count(api.engine, Job), row_count(api.engine, JobEvent), row_count(api.engine, IdempotencyKey)) == (0, 0, 0)
        assert api.bell.rung == []

    def test_a_bell_that_cannot_be_rung_does_not_lose_the_job(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(job_id: str) -> None:
            raise ConnectionError("the broker is away")

        file_id = api.file_id()
        monkeypatch.setattr(api.bell, "ring", broken)

        response = api.post_job(file_id)

        assert response.status_code == 200
        assert read_job(api.engine, response.json()["id"]).status == "queued"

    def test_what_happens_to_rows_and_prompt_is_taken_kept_and_estimated(self, api: Api) -> None:
        asked = {"prompt_neighbours": 4, "augment_phrases": 0.5, "synonyms": [["怎么", "如何"]], "code_order": "shuffled"}
        body = {"model": TINY, "training_file": api.file_id(), "method": supervised(preset="quick", **asked)}
        plain = {**body, "method": supervised(preset="quick")}

        made = api.client.post(f"{JOBS}?dry_run=true", json=body).json()
        other = api.client.post(f"{JOBS}?dry_run=true", json=plain).json()

        assert {name: made["spec"][name] for name in asked} == asked
        assert made["prompt_tokens_mean"] > other["prompt_tokens_mean"]
        assert [one["can_serve"] for one in made["serving"]] == [True, False]
        single = {**body, "method": supervised(preset="quick", answer_format="single_tokens")}
        serving = api.client.post(f"{JOBS}?dry_run=true", json=single).json()["serving"]
        assert [one["can_serve"] for one in serving] == [True, False]
        assert "stand for codes" in serving[1]["reason"]
        classified = {**body, "method": supervised(preset="quick", classifier_weight=0.5)}
        assert "classifier" in api.client.post(f"{JOBS}?dry_run=true", json=classified).json()["serving"][1]["reason"]
        assert api.client.post(JOBS, json=body).status_code == 200

    def test_a_dry_run_refuses_what_creation_would_and_queues_nothing(self, api: Api) -> None:
        response = api.client.post(f"{JOBS}?dry_run=true", json={"model": "tiny-gemma", "training_file": "file-none"})

        assert (response.status_code, error_of(response)["param"]) == (404, "training_file")
        assert row_count(api.engine, Job) == 0


class TestIdempotencyKeys:
    def test_the_same_key_and_body_give_the_same_job(self, api: Api) -> None:
        file_id = api.file_id()

        first, second = api.post_job(file_id, key="k-1").json(), api.post_job(file_id, key="k-1").json()

        assert first == second
        assert row_count(api.engine, Job) == 1
        assert api.bell.rung == [first["id"]]

    def test_without_a_key_the_same_body_gives_two_jobs(self, api: Api) -> None:
        file_id = api.file_id()

        assert api.post_job(file_id).json()["id"] != api.post_job(file_id).json()["id"]

    def test_the_same_key_with_another_body_is_422(self, api: Api) -> None:
        file_id = api.file_id()
        api.post_job(file_id, key="k-1")

        response = api.post_job(file_id, key="k-1", suffix="other")

        assert response.status_code == 422
        assert (error_of(response)["code"], error_of(response)["param"]) == ("idempotency_key_reused", "Idempotency-Key")

    def test_a_known_key_gives_its_job_though_the_queue_is_full_by_now(self, tmp_path: Path, databases: Databases) -> None:
        with databases.database("sqlite") as url, running_api(tmp_path, url, max_queued_jobs=1) as api:
            file_id = api.file_id()
            first = api.post_job(file_id, key="k-1").json()["id"]

            assert api.post_job(file_id, key="k-1").json()["id"] == first

    def test_a_refused_request_uses_no_key_up(self, api: Api) -> None:
        api.post_job("file-none", key="k-1")

        assert api.post_job(api.file_id(), key="k-1").status_code == 200

    def test_fifty_requests_at_once_with_one_key_make_one_job(self, api: Api) -> None:
        file_id = api.file_id()

        with ThreadPoolExecutor(50) as pool:
            responses = list(pool.map(lambda _: api.post_job(file_id, key="k-1"), range(50)))

        assert [response.status_code for response in responses] == [200] * 50
        assert len({response.json()["id"] for response in responses}) == 1
        assert row_count(api.engine, Job) == 1
        assert len(api.bell.rung) == 1

    def test_a_key_of_more_than_255_characters_is_refused(self, api: Api) -> None:
        assert api.post_job(api.file_id(), key="k" * 256).status_code == 422


class TestReading:
    def test_jobs_are_listed_newest_first_page_by_page(self, api: Api) -> None:
        job_ids = [insert_job(api.engine) for _ in range(5)]

        pages = pages_of(api, JOBS, limit=2)

        assert [[job["id"] for job in page] for page in pages] == [job_ids[:2:-1], job_ids[2:0:-1], job_ids[:1]]

    def test_jobs_created_in_one_instant_appear_once_each(self, api: Api) -> None:
        job_ids = [insert_job(api.engine, created_at=5.0) for _ in range(5)]

        listed = [job["id"] for page in pages_of(api, JOBS, limit=2) for job in page]

        assert listed == sorted(job_ids, reverse=True)

    def test_evaluations_are_not_listed_among_the_jobs(self, api: Api) -> None:
        insert_job(api.engine, kind="evaluation")

        assert api.client.get(JOBS).json()["data"] == []

    def test_metadata_filters_by_every_given_pair(self, api: Api) -> None:
        wanted = insert_job(api.engine, user_metadata={"team": "care", "run": "1"})
        insert_job(api.engine, user_metadata={"team": "care", "run": "2"})
        insert_job(api.engine, user_metadata={"team": "sales", "run": "1"})
        insert_job(api.engine, user_metadata={})

        page = api.client.get(JOBS, params={"metadata[team]": "care", "metadata[run]": "1"}).json()

        assert [job["id"] for job in page["data"]] == [wanted]

    @pytest.mark.parametrize("key", ["a.b", "a'b", 'a"b', "客户", "a]b", "$"])
    def test_a_metadata_key_is_never_more_than_a_key(self, api: Api, key: str) -> None:
        wanted = insert_job(api.engine, user_metadata={key: "1"})
        insert_job(api.engine, user_metadata={"a": {"b": "1"}})

        page = api.client.get(JOBS, params={f"metadata[{key}]": "1"}).json()

        assert [job["id"] for job in page["data"]] == [wanted]

    def test_the_queue_position_counts_the_jobs_before(self, api: Api) -> None:
        insert_job(api.engine, status=JobStatus.RUNNING, created_at=1.0)
        insert_job(api.engine, created_at=2.0)
        insert_job(api.engine, status=JobStatus.INTERRUPTED, created_at=3.0)
        job_id = insert_job(api.engine, created_at=4.0)

        assert api.client.get(f"{JOBS}/{job_id}").json()["queue_position"] == 2

    def test_a_running_job_has_no_queue_position(self, api: Api) -> None:
        job_id = insert_job(api.engine, status=JobStatus.RUNNING)

        assert api.client.get(f"{JOBS}/{job_id}").json()["queue_position"] is None

    def test_a_running_jobs_end_is_estimated_by_the_databases_clock(self, api: Api) -> None:
        job_id = insert_job(api.engine, status=JobStatus.RUNNING, progress={"seconds_remaining": 100})

        body = api.client.get(f"{JOBS}/{job_id}").json()

        assert body["estimated_finish"] == pytest.approx(body["created_at"] + 100, abs=30)

    def test_a_failed_job_says_why(self, api: Api) -> None:
        job_id = insert_job(
            api.engine, status=JobStatus.FAILED, error_code="nothing_to_train", error_message="No row is left.", error_param="x"
        )

        error = api.client.get(f"{JOBS}/{job_id}").json()["error"]

        assert error == {"code": "nothing_to_train", "message": "No row is left.", "param": "x"}

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", ""), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume"), ("GET", "/events"), ("GET", "/checkpoints")],
    )
    def test_an_unknown_job_is_404(self, api: Api, method: str, path: str) -> None:
        response = api.client.request(method, f"{JOBS}/ftjob-none{path}")

        assert (response.status_code, error_of(response)["type"]) == (404, "not_found_error")


class TestVerbs:
    @pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.INTERRUPTED])
    def test_a_job_that_does_not_run_is_cancelled_at_once(self, api: Api, status: JobStatus) -> None:
        job_id = insert_job(api.engine, status=status)

        body = api.client.post(f"{JOBS}/{job_id}/cancel").json()

        assert body["status"] == "cancelled" and body["finished_at"] is not None

    @pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.INTERRUPTED])
    def test_a_job_that_does_not_run_is_paused_at_once(self, api: Api, status: JobStatus) -> None:
        job_id = insert_job(api.engine, status=status)

        assert api.client.post(f"{JOBS}/{job_id}/pause").json()["status"] == "paused"

    @pytest.mark.parametrize("verb", ["cancel", "pause"])
    def test_a_running_job_gets_a_wish(self, api: Api, verb: str) -> None:
        job_id = insert_job(api.engine, status=JobStatus.RUNNING)

        body = api.client.post(f"{JOBS}/{job_id}/{verb}").json()

        assert (body["status"], body["wish"]) == ("running", verb)

    def test_the_same_wish_twice_is_told_once(self, api: Api) -> None:
        job_id = insert_job(api.engine, status=JobStatus.RUNNING)

        responses = [api.client.post(f"{JOBS}/{job_id}/cancel") for _ in range(2)]

        assert [response.status_code for response in responses] == [200, 200]
        assert read_job(api.engine, job_id).event_count == 1

    def test_a_cancel_overrides_a_pause(self, api: Api) -> None:
        job_id = insert_job(api.engine, status=JobStatus.RUNNING, wish="pause")

        assert api.client.post(f"{JOBS}/{job_id}/cancel").json()["wish"] == "cancel"

    def test_a_pause_does_not_override_a_cancel(self, api: Api) -> None:
        job_id = insert_job(api.engine, status=JobStatus.RUNNING, wish="cancel")

        assert api.client.post(f"{JOBS}/{job_id}/pause").status_code == 409
        assert read_job(api.engine, job_id).wish == "cancel"

    @pytest.mark.parametrize(
        ("verb", "status"),
        [("cancel", status) for status in sorted(TERMINAL)]
        + [("pause", status) for status in [*sorted(TERMINAL), JobStatus.PAUSED]]
        + [("resume", status) for status in JobStatus if status is not JobStatus.PAUSED],
    )
    def test_a_conflict_is_409_and_not_to_be_retried(self, api: Api, verb: str, status: JobStatus) -> None:
        job_id = insert_job(api.engine, status=status)

        response = api.client.post(f"{JOBS}/{job_id}/{verb}")

        assert response.status_code == 409
        assert response.headers["x-should-retry"] == "false"
        assert (error_of(response)["type"], error_of(response)["code"]) == ("conflict_error", "conflict")
        assert status.value in error_of(response)["message"]
        assert read_job(api.engine, job_id).status == status.value

    def test_a_resumed_job_is_queued_with_new_attempts_and_a_bell(self, api: Api) -> None:
        job_id = insert_job(api.engine, status=JobStatus.PAUSED, attempts=2, due_at=9e9)

        body = api.client.post(f"{JOBS}/{job_id}/resume").json()

        assert (body["status"], body["attempts"]) == ("queued", 0)
        assert api.bell.rung == [job_id]
        assert must_claim(api.engine).job_id == job_id

    def test_a_resume_whose_commit_fails_rings_no_bell(self, api: Api) -> None:
        job_id = insert_job(api.engine, status=JobStatus.PAUSED)

        with failing_commits(api.engine):
            assert api.client.post(f"{JOBS}/{job_id}/resume").status_code == 500

        assert (read_job(api.engine, job_id).status, api.bell.rung) == ("paused", [])

    @pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
    def test_an_evaluations_job_is_not_reached_through_fine_tuning(self, api: Api, verb: str) -> None:
        job_id = insert_job(api.engine, kind="evaluation")

        assert api.client.post(f"{JOBS}/{job_id}/{verb}").status_code == 404


class TestEventsAndCheckpoints:
    def make_events(self, api: Api, count: int) -> str:
        job_id = insert_job(api.engine)
        with unit_of_work(api.engine) as session:
            for number in range(count):
                service.events.append(session, job_id, f"Event {number + 1}.", data={"n": number})
        return job_id

    def test_events_are_listed_newest_first_page_by_page(self, api: Api) -> None:
        job_id = self.make_events(api, 5)

        pages = pages_of(api, f"{JOBS}/{job_id}/events", limit=2)

        assert [[event["number"] for event in page] for page in pages] == [[5, 4], [3, 2], [1]]

    def test_an_event_has_openais_fields(self, api: Api) -> None:
        job_id = self.make_events(api, 1)

        (event,) = api.client.get(f"{JOBS}/{job_id}/events").json()["data"]

        assert event["object"] == "fine_tuning.job.event"
        assert (event["level"], event["type"], event["message"], event["data"]) == ("info", "message", "Event 1.", {"n": 0})

    @pytest.mark.parametrize("after", ["nonsense", "ftevent-1-", "ftevent-1-²", "ftevent-1-99999999999999999999"])
    def test_a_cursor_that_is_no_event_is_refused(self, api: Api, after: str) -> None:
        job_id = self.make_events(api, 1)

        response = api.client.get(f"{JOBS}/{job_id}/events", params={"after": after})

        assert (response.status_code, error_of(response)["param"]) == (400, "after")

    def test_a_stream_replays_every_event_and_ends_with_the_job(self, api: Api) -> None:
        job_id = api.job_id()
        api.client.post(f"{JOBS}/{job_id}/cancel")

        response = api.client.get(f"{JOBS}/{job_id}/events", params={"stream": True})

        assert response.headers["content-type"].startswith("text/event-stream")
        assert [line for line in response.text.splitlines() if line.startswith("id:")] == ["id: 1", "id: 2"]
        assert response.text.rstrip().endswith("data: [DONE]")

    def test_a_stream_goes_on_after_the_last_event_id(self, api: Api) -> None:
        job_id = api.job_id()
        api.client.post(f"{JOBS}/{job_id}/cancel")

        response = api.client.get(f"{JOBS}/{job_id}/events", params={"stream": True}, headers={"Last-Event-ID": "1"})

        assert [line for line in response.text.splitlines() if line.startswith("id:")] == ["id: 2"]

    def test_checkpoints_are_listed_latest_first_page_by_page(self, api: Api) -> None:
        job_id = insert_job(api.engine)
        lease = must_claim(api.engine)
        with unit_of_work(api.engine) as session:
            for step in (10, 30, 20):
                service.record_checkpoint(session, lease, step=step, blob_key=f"k/{step}", checksum="c", metrics={"loss": step})

        pages = pages_of(api, f"{JOBS}/{job_id}/checkpoints", limit=2)

        assert [[row["step_number"] for row in page] for page in pages] == [[30, 20], [10]]
        assert pages[1][0]["metrics"] == {"loss": 10}
        assert pages[1][0]["fine_tuning_job_id"] == job_id

    def test_the_checkpoint_with_the_best_scores_is_marked(self, api: Api) -> None:
        job_id = insert_job(api.engine, spec={"metric_for_best_model": "eval_loss"})
        lease = must_claim(api.engine)
        with unit_of_work(api.engine) as session:
            for step, scores in ((10, {"eval_loss": 0.7}), (20, {"eval_loss": 0.5}), (25, {}), (30, {"eval_loss": 0.5})):
                metrics = {"step": step, "train_loss": 0.1, **scores}
                service.record_checkpoint(session, lease, step=step, blob_key=f"k/{step}", checksum="c", metrics=metrics)

        rows = api.client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]

        assert [(row["step_number"], row["is_best"]) for row in rows] == [(30, False), (25, False), (20, True), (10, False)]
        assert rows[2]["metrics"] == {"step": 20, "train_loss": 0.1, "eval_loss": 0.5}

    def test_a_checkpoint_cursor_of_another_job_is_refused(self, api: Api) -> None:
        job_id = insert_job(api.engine)

        response = api.client.get(f"{JOBS}/{job_id}/checkpoints", params={"after": "ftckpt-none"})

        assert (response.status_code, error_of(response)["param"]) == (400, "after")


def test_a_success_shows_the_adapter_in_the_job_and_in_its_events(api: Api) -> None:
    job_id = api.job_id(suffix="telecom")
    lease = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        service.finish_finetune(
            session,
            lease,
            checksum="c" * 64,
            blob_key="adapters/c",
            metrics={"train_loss": 0.3},
            trained_tokens=12,
            result_file_ids={"loss.csv": "file-1"},
        )

    body = api.client.get(f"{JOBS}/{job_id}").json()
    messages = [event["message"] for event in api.client.get(f"{JOBS}/{job_id}/events").json()["data"]]

    assert (body["status"], body["fine_tuned_model"], body["trained_tokens"]) == ("succeeded", "telecom:1", 12)
    assert body["metrics"] == {"train_loss": 0.3}
    assert (body["result_files"], body["result_file_names"]) == (["file-1"], {"loss.csv": "file-1"})
    assert "New adapter: telecom:1." in messages
    assert api.client.get("/v1/models/telecom:1").json()["job"] == job_id


def test_a_fenced_worker_publishes_no_adapter(api: Api) -> None:
    api.job_id(suffix="telecom")
    stale = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        leases.interrupt(session, stale, reason="lost.")
    must_claim(api.engine, owner="worker-2")

    with unit_of_work(api.engine) as session:
        adapter = service.finish_finetune(
            session, stale, checksum="c" * 64, blob_key="k", metrics={}, trained_tokens=1, result_file_ids={}
        )

    assert adapter is None
    assert api.client.get("/v1/models/telecom:1").status_code == 404
    assert read_job(api.engine, stale.job_id).status == "running"
