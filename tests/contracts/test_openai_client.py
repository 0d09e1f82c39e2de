"""The official `openai` client, unchanged, against the API on a real socket."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from openai import OpenAI

from app.db.unit_of_work import unit_of_work
from app.jobs import service
from tests.fixtures.api import BASE, QUESTION, Api, alpaca, running_api, serving
from tests.fixtures.db import Databases, empty
from tests.fixtures.queue import insert_adapter, insert_file, insert_job, must_claim


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[tuple[Api, str]]:
    with (
        databases.database("postgresql") as url,
        running_api(tmp_path_factory.mktemp("data"), url) as api,
        serving(api.app) as address,
    ):
        yield api, address


@pytest.fixture
def api(served: tuple[Api, str]) -> Iterator[Api]:
    yield served[0]
    empty(served[0].engine)


@pytest.fixture
def requests_sent() -> list[str]:
    return []


@pytest.fixture
def client(served: tuple[Api, str], requests_sent: list[str]) -> Iterator[OpenAI]:
    def note(request: httpx2.Request) -> None:
        requests_sent.append(f"{request.method} {request.url.path}")

    with (
        httpx2.Client(event_hooks={"request": [note]}) as http,
        OpenAI(base_url=f"{served[1]}/v1", api_key="none", http_client=http) as made,
    ):
        yield made


@pytest.fixture
def training_file(client: OpenAI) -> str:
    return client.files.create(file=("rows.json", alpaca()), purpose="fine-tune").id


class TestFiles:
    def test_a_file_is_uploaded_found_read_and_deleted(self, api: Api, client: OpenAI) -> None:
        created = client.files.create(file=("telecom.json", alpaca()), purpose="fine-tune")

        assert (created.filename, created.purpose, created.bytes) == ("telecom.json", "fine-tune", len(alpaca()))
        assert client.files.retrieve(created.id) == created
        assert client.files.content(created.id).read() == alpaca()
        assert client.files.delete(created.id).deleted is True

    def test_waiting_for_a_file_ends_at_once(self, api: Api, client: OpenAI, training_file: str) -> None:
        assert client.files.wait_for_processing(training_file, max_wait_seconds=1).status == "processed"

    def test_an_upload_from_a_path_keeps_its_name(self, api: Api, client: OpenAI, tmp_path: Path) -> None:
        path = tmp_path / "数据.jsonl"
        path.write_bytes(alpaca())

        assert client.files.create(file=path, purpose="evals").filename == "数据.jsonl"

    def test_iterating_a_list_goes_through_all_pages(self, api: Api, client: OpenAI, requests_sent: list[str]) -> None:
        file_ids = [insert_file(api.engine) for _ in range(5)]

        assert [file.id for file in client.files.list(limit=2)] == file_ids[::-1]
        assert requests_sent.count("GET /v1/files") == 3

    def test_a_bad_file_is_a_bad_request_with_its_row(self, api: Api, client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.create(file=("rows.json", alpaca(({"instruction": "问"},))), purpose="fine-tune")

        assert (caught.value.code, caught.value.param) == ("invalid_dataset", "output")
        assert "row 1" in caught.value.message


class TestJobs:
    def test_a_job_is_created_and_read_back(self, api: Api, client: OpenAI, training_file: str) -> None:
        created = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=training_file,
            suffix="telecom",
            seed=7,
            metadata={"team": "care"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
        )

        assert (created.status, created.seed, created.metadata) == ("queued", 7, {"team": "care"})
        assert created.hyperparameters is not None and created.hyperparameters.n_epochs == 2
        assert client.fine_tuning.jobs.retrieve(created.id).id == created.id

    def test_llama_factorys_names_travel_beside_openais(self, api: Api, client: OpenAI, training_file: str) -> None:
        hyperparameters = {"n_epochs": 1, "lora_rank": 8, "use_dora": True}

        created = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=training_file,
            method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[typeddict-item]
        )

        assert created.to_dict()["spec"]["lora_rank"] == 8  # type: ignore[index]

    def test_an_idempotency_key_is_a_header_away(self, api: Api, client: OpenAI, training_file: str) -> None:
        made = [
            client.fine_tuning.jobs.create(model=BASE, training_file=training_file, extra_headers={"Idempotency-Key": "k-1"}).id
            for _ in range(2)
        ]

        assert made[0] == made[1]

    def test_iterating_jobs_goes_through_all_pages(self, api: Api, client: OpenAI) -> None:
        job_ids = [insert_job(api.engine) for _ in range(5)]

        assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == job_ids[::-1]

    def test_jobs_are_filtered_by_metadata(self, api: Api, client: OpenAI) -> None:
        wanted = insert_job(api.engine, user_metadata={"team": "care"})
        insert_job(api.engine, user_metadata={"team": "sales"})

        assert [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "care"})] == [wanted]

    def test_a_job_is_paused_resumed_and_cancelled(self, api: Api, client: OpenAI) -> None:
        job_id = insert_job(api.engine)

        assert client.fine_tuning.jobs.pause(job_id).status == "paused"
        assert client.fine_tuning.jobs.resume(job_id).status == "queued"
        assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"

    def test_a_conflict_is_not_retried(self, api: Api, client: OpenAI, requests_sent: list[str]) -> None:
        job_id = insert_job(api.engine)
        client.fine_tuning.jobs.cancel(job_id)

        with pytest.raises(openai.ConflictError):
            client.fine_tuning.jobs.cancel(job_id)

        assert len(requests_sent) == 2

    def test_iterating_events_goes_through_all_pages(self, api: Api, client: OpenAI) -> None:
        job_id = insert_job(api.engine)
        with unit_of_work(api.engine) as session:
            for number in range(5):
                service.events.append(session, job_id, f"Event {number + 1}.")

        messages = [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=2)]

        assert messages == [f"Event {number}." for number in (5, 4, 3, 2, 1)]

    def test_iterating_checkpoints_goes_through_all_pages(self, api: Api, client: OpenAI) -> None:
        job_id = insert_job(api.engine)
        lease = must_claim(api.engine)
        with unit_of_work(api.engine) as session:
            for step in (1, 2, 3):
                service.record_checkpoint(session, lease, step=step, blob_key=f"k/{step}", checksum="c", metrics={})

        steps = [checkpoint.step_number for checkpoint in client.fine_tuning.jobs.checkpoints.list(job_id, limit=2)]

        assert steps == [3, 2, 1]

    def test_an_unknown_hyperparameter_is_named(self, api: Api, client: OpenAI, training_file: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.create(
                model=BASE,
                training_file=training_file,
                method={"type": "supervised", "supervised": {"hyperparameters": {"lora_rnak": 8}}},  # type: ignore[typeddict-unknown-key]
            )

        assert caught.value.param == "method.supervised.hyperparameters.lora_rnak"

    def test_a_fine_tuned_model_is_named_in_its_job(self, api: Api, client: OpenAI, training_file: str) -> None:
        job = client.fine_tuning.jobs.create(model=BASE, training_file=training_file, suffix="telecom")
        with unit_of_work(api.engine) as session:
            service.finish_finetune(
                session,
                must_claim_in(session),
                checksum="c" * 64,
                blob_key="adapters/c",
                metrics={},
                trained_tokens=9,
                result_file_ids={},
            )

        finished = client.fine_tuning.jobs.retrieve(job.id)

        assert (finished.status, finished.fine_tuned_model, finished.trained_tokens) == ("succeeded", "telecom:1", 9)


def must_claim_in(session: service.Session) -> service.Lease:
    from app.jobs.leases import claim_next

    lease = claim_next(session, owner="worker-1", lease_s=60)
    assert lease is not None
    return lease


class TestModels:
    def test_models_are_listed(self, api: Api, client: OpenAI) -> None:
        insert_adapter(api.engine)

        assert {BASE, "telecom:1"} <= {model.id for model in client.models.list()}

    def test_a_model_is_found_by_a_name_with_a_colon_or_an_at(self, api: Api, client: OpenAI, served: tuple[Api, str]) -> None:
        adapter_id = insert_adapter(api.engine)
        httpx2.put(f"{served[1]}/v1/aliases/telecom@production", json={"to": adapter_id}).raise_for_status()

        assert client.models.retrieve("telecom:1").id == "telecom:1"
        assert client.models.retrieve("telecom@production").id == "telecom:1"

    def test_a_model_is_deleted(self, api: Api, client: OpenAI) -> None:
        adapter_id = insert_adapter(api.engine)

        assert client.models.delete(adapter_id).deleted is True
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(adapter_id)


class TestChat:
    def test_a_chat_is_answered_with_codes(self, api: Api, client: OpenAI) -> None:
        completion = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": QUESTION}])

        assert completion.choices[0].message.content == "取消方式_12|9.9"
        assert completion.usage is not None and completion.usage.total_tokens == 12

    def test_a_streamed_chat_adds_up_to_the_same_answer(self, api: Api, client: OpenAI) -> None:
        stream = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": QUESTION}], stream=True)

        chunks = list(stream)

        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "取消方式_12|9.9"
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_an_unknown_model_is_not_found(self, api: Api, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": QUESTION}])

        assert caught.value.param == "model"

    def test_a_body_that_is_wrong_is_named(self, api: Api, client: OpenAI) -> None:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": QUESTION}], logprobs=True)

        assert caught.value.param == "logprobs"

    def test_a_request_id_is_known_to_the_client(self, api: Api, client: OpenAI) -> None:
        completion = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": QUESTION}])

        assert completion._request_id is not None and len(completion._request_id) == 32
