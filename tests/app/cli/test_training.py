import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli.client import ApiClient
from app.cli.following import curve
from app.cli.stack import free_port
from app.cli.training import parse_words
from app.jobs.leases import Lease
from tests.app.cli.terminal import Dianda, dialect, fail, train, worker
from tests.fixtures.api import BASE, Api, alpaca, serving
from tests.fixtures.queue import insert_job, read_job

__all__ = ["dialect"]


@pytest.fixture
def dianda(api: Api) -> Iterator[Dianda]:
    with serving(api.app) as url:
        yield Dianda(url)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.json"
    path.write_bytes(alpaca())
    return str(path)


class TestTheRecipesArguments:
    def test_four_words_are_base_model_dataset_targets_and_output(self) -> None:
        asked = parse_words(["gemma-2b", "telecom.json", "q_proj,k_proj,v_proj", "telecom"])

        assert (asked.model, asked.dataset, asked.output) == ("gemma-2b", "telecom.json", "telecom")
        assert asked.hyperparameters == {"lora_target": "q_proj,k_proj,v_proj"}

    def test_options_are_hyperparameters_with_the_types_that_they_look_like(self) -> None:
        words = ["m", "d", "--lora_rank", "64", "--learning-rate=5e-5", "--use_dora", "False", "--use_rslora"]

        assert parse_words(words).hyperparameters == {
            "lora_rank": 64,
            "learning_rate": 5e-5,
            "use_dora": False,
            "use_rslora": True,
        }

    def test_llama_factorys_flags_stand_for_the_words(self) -> None:
        words = ["--model_name_or_path", "m", "--dataset", "d", "--lora_target", "q_proj", "--output_dir", "o"]

        assert parse_words(words) == parse_words(["m", "d", "q_proj", "o"])

    @pytest.mark.parametrize("words", [["m", "d", "t", "o", "more"], ["m", "--model_name_or_path", "n"]])
    def test_a_word_too_many_is_refused(self, words: list[str]) -> None:
        with pytest.raises(typer.BadParameter):
            parse_words(words)


class TestTraining:
    def test_a_job_is_followed_to_its_adapter(self, api: Api, dianda: Dianda, rows: str) -> None:
        with worker(api, partial(train, api)):
            ran = dianda("train", BASE, rows, "q_proj,v_proj", "telecom", "--lora_rank", "4", "--seed", "7")

        assert ran.code == 0, ran.err
        assert "telecom:1" in ran.out and "2.000 → 0.500" in ran.out
        assert "dianda chat telecom:1" in ran.err
        (job,) = api.client.get("/v1/fine_tuning/jobs").json()["data"]
        assert (job["seed"], job["spec"]["lora_rank"], job["spec"]["lora_target"]) == (7, 4, ["q_proj", "v_proj"])

    def test_as_json_each_event_is_a_line_and_the_job_the_last(self, api: Api, dianda: Dianda, rows: str) -> None:
        with worker(api, partial(train, api)):
            lines = dianda("train", BASE, rows, "--json").lines

        assert {line["object"] for line in lines[:-1]} == {"fine_tuning.job.event"}
        assert [line["data"]["loss"] for line in lines[:-1] if line["type"] == "metrics"] == [2.0, 0.5]
        assert (lines[-1]["object"], lines[-1]["status"]) == ("fine_tuning.job", "succeeded")

    def test_a_job_that_fails_says_why_and_ends_with_4(self, api: Api, dianda: Dianda, rows: str) -> None:
        with worker(api, partial(fail, api)):
            ran = dianda("train", BASE, rows)

        assert ran.code == 4
        assert "No row fits. Raise cutoff_len." in ran.err

    def test_detached_it_prints_the_id_alone(self, api: Api, dianda: Dianda, rows: str) -> None:
        job_id = dianda("train", BASE, rows, "--detach").out.strip()

        assert read_job(api.engine, job_id).status == "queued"

    def test_a_dry_run_queues_nothing(self, api: Api, dianda: Dianda, rows: str) -> None:
        estimate = dianda("train", BASE, rows, "--dry-run", "--json").json

        assert estimate["object"] == "fine_tuning.job.estimate"
        assert api.client.get("/v1/fine_tuning/jobs").json()["data"] == []

    def test_the_same_file_is_uploaded_once(self, api: Api, dianda: Dianda, rows: str) -> None:
        for _ in range(2):
            dianda("train", BASE, rows, "--detach")

        assert len(api.client.get("/v1/files").json()["data"]) == 1

    def test_a_hyperparameter_that_does_not_exist_is_refused_with_those_that_do(
        self, api: Api, dianda: Dianda, rows: str
    ) -> None:
        ran = dianda("train", BASE, rows, "--lora_rang", "8", "--json")

        assert ran.code == 1
        assert ran.json["error"]["code"] == "invalid_hyperparameter" and "lora_rank" in ran.json["error"]["message"]

    def test_what_only_llama_factory_needs_is_left_out_and_said(self, api: Api, dianda: Dianda, rows: str) -> None:
        ran = dianda("train", BASE, rows, "--stage", "sft", "--do_train", "True", "--detach")

        assert ran.code == 0 and "--stage means nothing here" in ran.err

    def test_a_file_that_is_not_there_is_named(self, api: Api, dianda: Dianda) -> None:
        ran = dianda("train", BASE, "nowhere.json")

        assert ran.code == 1 and "nowhere.json" in ran.err

    def test_where_nothing_answers_the_exit_code_is_3(self, rows: str) -> None:
        ran = Dianda(f"http://127.0.0.1:{free_port()}")("train", BASE, rows)

        assert ran.code == 3 and "dianda up" in ran.err

    def test_ctrl_c_leaves_the_job_running_and_says_so(
        self, api: Api, dianda: Dianda, rows: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(self: ApiClient, path: str, *, after: int) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(ApiClient, "events", interrupted)

        ran = dianda("train", BASE, rows)

        (job,) = api.client.get("/v1/fine_tuning/jobs").json()["data"]
        assert (ran.code, job["status"]) == (130, "queued")
        assert f"{job['id']} goes on" in ran.err and f"dianda jobs cancel {job['id']}" in ran.err


class TestJobs:
    def test_watching_without_a_name_takes_the_newest_that_goes_on(self, api: Api, dianda: Dianda, rows: str) -> None:
        dianda("train", BASE, rows, "--detach")
        streams = api.app.state.event_streams

        def train_once_somebody_looks(lease: Lease) -> None:
            while streams._open == 0:
                time.sleep(0.02)
            train(api, lease)

        with worker(api, train_once_somebody_looks):
            ran = dianda("watch")

        assert ran.code == 0 and "Step" not in ran.out and "tiny-gemma-ft:1" in ran.out

    def test_watching_where_nothing_runs_says_so(self, api: Api, dianda: Dianda) -> None:
        assert dianda("watch").code == 1

    @pytest.mark.parametrize(("verb", "status"), [("pause", "paused"), ("cancel", "cancelled")])
    def test_a_queued_job_obeys(self, api: Api, dianda: Dianda, verb: str, status: str) -> None:
        job_id = insert_job(api.engine)

        assert dianda("jobs", verb, job_id, "--json").json["status"] == status
        assert job_id in dianda("jobs", "list").out

    def test_a_conflict_is_told_in_the_apis_words(self, api: Api, dianda: Dianda) -> None:
        job_id = insert_job(api.engine)
        dianda("jobs", "cancel", job_id)

        ran = dianda("jobs", "cancel", job_id, "--json")

        assert (ran.code, ran.json["error"]["code"]) == (1, "conflict")


class TestEventsAcrossACut:
    def test_a_stream_that_is_cut_goes_on_behind_the_last_event(
        self, api: Api, dianda: Dianda, rows: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import httpx2

        from app.cli import client as module

        monkeypatch.setattr(module, "_RECONNECT_PAUSE_S", 0.01)
        job_id = dianda("train", BASE, rows, "--detach").out.strip()
        with worker(api, partial(train, api)), ApiClient(dianda.url) as client:
            whole, cuts = ApiClient._stream_events, []

            def cut_after_one(self: ApiClient, path: str, after: int) -> Iterator[Any]:
                for event in whole(self, path, after):
                    yield event
                    if event is not None:
                        cuts.append(after)
                        raise httpx2.ReadError("cut")

            monkeypatch.setattr(ApiClient, "_stream_events", cut_after_one)
            numbers = [event["number"] for event in client.events(f"/v1/fine_tuning/jobs/{job_id}/events", after=0)]

        assert numbers == list(range(1, len(numbers) + 1))
        assert len(cuts) == len(numbers) >= 4

    def test_an_api_that_stays_away_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from app.cli import client as module

        monkeypatch.setattr(module, "_RECONNECT_S", 0.05)
        monkeypatch.setattr(module, "_RECONNECT_PAUSE_S", 0.01)
        with ApiClient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(module.ApiUnreachable):
            list(client.events("/v1/fine_tuning/jobs/ftjob-1/events", after=0))


@pytest.mark.parametrize(
    ("values", "drawn"), [([], ""), ([1.0], "▁"), ([2.0, 1.0], "█▁"), ([3.0, 3.0], "▁▁"), ([8, 8, 1, 1], "█▁")]
)
def test_a_curve_is_drawn_from_high_to_low(values: list[float], drawn: str) -> None:
    assert curve(values, chars=2) == drawn
