"""What cannot work is refused when the job is posted, with the field's name, and nothing is queued."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.db.unit_of_work import unit_of_work
from app.durable import seal_folder
from app.jobs.hyperparameters import PARAM_PREFIX
from app.jobs.models import Job
from app.ml.formats.canonical import CanonicalWriter
from app.ml.formats.example import Example
from tests.fixtures.api import BASE, Api, alpaca, running_api
from tests.fixtures.db import Databases
from tests.fixtures.queue import insert_adapter, insert_file, row_count
from tests.fixtures.zeros import CONFIG, decoder_shapes, write_safetensors

JOBS = "/v1/fine_tuning/jobs"
LONG_ANSWER = "|".join(f"取消方式_{number}" for number in range(10))


def post(api: Api, file_id: str, *, dry_run: bool = False, model: str = BASE, **hyperparameters: Any) -> httpx2.Response:
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    body = {"model": model, "training_file": file_id, "method": method}
    return api.client.post(JOBS, json=body, params={"dry_run": dry_run})


def refusal(api: Api, file_id: str, **options: Any) -> tuple[str, str]:
    """Returns code and param, the same from creating the job and from a dry run; nothing is queued."""
    found = []
    for dry_run in (False, True):
        response = post(api, file_id, dry_run=dry_run, **options)
        error = response.json()["error"]
        assert response.status_code == 400, error
        assert set(error) - {"details"} == {"message", "type", "param", "code"}
        found.append((error["code"], error["param"].removeprefix(PARAM_PREFIX)))
    assert found[0] == found[1]
    assert row_count(api.engine, Job) == 0 and api.bell.rung == []
    return found[0]


def long_answers(rows: int, *, good_rows: int = 0) -> bytes:
    good = [{"instruction": f"短{row}", "output": "9.9"} for row in range(good_rows)]
    return alpaca((*({"instruction": f"问题{row}", "output": LONG_ANSWER} for row in range(rows)), *good))


class TestTheBaseModel:
    def test_a_rank_above_a_layers_width_is_refused(self, api: Api) -> None:
        assert refusal(api, api.file_id(), lora_rank=129) == ("invalid_hyperparameter", "lora_rank")

    def test_a_cut_off_above_the_context_is_refused(self, api: Api) -> None:
        assert refusal(api, api.file_id(), cutoff_len=1025) == ("invalid_hyperparameter", "cutoff_len")

    def test_the_greatest_that_can_work_is_taken(self, api: Api) -> None:
        assert post(api, api.file_id(), lora_rank=128, cutoff_len=1024).status_code == 200


@pytest.fixture
def other_bases(tmp_path: Path, databases: Databases) -> Iterator[Api]:
    """An API whose store also holds a GPT-2 and a base model with damaged weights."""
    sources = {BASE: "folder:/nowhere", "gpt2": "folder:/nowhere", "damaged": "folder:/nowhere"}
    with databases.database("sqlite") as url, running_api(tmp_path, url, base_models=sources) as api:
        for name in ("gpt2", "damaged"):
            folder = api.settings.models_dir / name
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps({"n_embd": 8} if name == "gpt2" else CONFIG))
            shapes = {"h.0.attn.c_attn.weight": [8, 24]} if name == "gpt2" else decoder_shapes(CONFIG)
            write_safetensors(folder / "model.safetensors", shapes)
            seal_folder(folder)
        with (api.settings.models_dir / "damaged" / "model.safetensors").open("r+b") as file:
            file.write(b"\xff" * 64)
        yield api


def test_target_modules_that_the_base_model_lacks_are_refused(other_bases: Api) -> None:
    file_id = other_bases.file_id()

    assert refusal(other_bases, file_id, model="gpt2", lora_target="q_proj") == ("invalid_hyperparameter", "lora_target")
    assert "c_attn" in post(other_bases, file_id, model="gpt2").json()["error"]["message"]


def test_damaged_weights_say_what_to_do(other_bases: Api) -> None:
    response = post(other_bases, other_bases.file_id(), model="damaged")

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (503, "base_model_broken", "model")
    assert "dianda models import damaged" in error["message"]


class TestTheRows:
    def test_a_training_file_without_rows_is_refused(self, api: Api) -> None:
        assert refusal(api, insert_file(api.engine, report={"rows": 0})) == ("no_rows", "training_file")

    def test_a_validation_file_without_rows_is_refused(self, api: Api) -> None:
        empty = insert_file(api.engine, report={"rows": 0})

        response = api.post_job(api.file_id(), validation_file=empty)

        assert response.status_code == 400
        assert (response.json()["error"]["code"], response.json()["error"]["param"]) == ("no_rows", "validation_file")

    def test_an_evaluation_on_no_rows_is_refused(self, api: Api) -> None:
        response = api.client.post("/v1/evaluations", json={"model": BASE, "file": insert_file(api.engine, report={"rows": 0})})

        assert (response.status_code, response.json()["error"]["param"]) == (400, "file")

    def test_answers_that_leave_no_room_for_a_prompt_are_refused(self, api: Api) -> None:
        assert refusal(api, api.file_id(content=long_answers(3)), cutoff_len=32) == ("nothing_to_train", "cutoff_len")

    def test_one_row_that_fits_is_enough(self, api: Api) -> None:
        assert post(api, api.file_id(content=long_answers(3, good_rows=1)), cutoff_len=32).status_code == 200

    def test_rows_beyond_max_samples_do_not_count(self, api: Api) -> None:
        file_id = api.file_id(content=long_answers(3, good_rows=1))

        assert refusal(api, file_id, cutoff_len=32, max_samples=3) == ("nothing_to_train", "cutoff_len")

    def test_an_answer_that_fits_by_its_tokens_alone_is_taken(self, api: Api) -> None:
        # 14 bytes, a byte a token, and the end: 15 of 17 leave two for the prompt.
        file_id = api.file_id(content=alpaca(({"instruction": "问", "output": "12345678901234"},)))

        assert post(api, file_id, cutoff_len=17).status_code == 200
        assert post(api, file_id, cutoff_len=16).json()["error"]["param"] == f"{PARAM_PREFIX}cutoff_len"

    def test_what_only_a_look_at_every_row_tells_is_left_to_training(self, api: Api) -> None:
        file_id = api.file_id(content=long_answers(1_001))

        assert post(api, file_id, cutoff_len=32, dry_run=True).json()["error"]["code"] == "nothing_to_train"
        assert post(api, file_id, cutoff_len=32).status_code == 200


def test_a_job_on_a_million_rows_is_created_at_once(api: Api, tmp_path: Path) -> None:
    from app.datasets import service as datasets
    from app.ml.formats.report import DatasetReport

    upload, rows = tmp_path / "rows.json", tmp_path / "rows"
    upload.write_bytes(b"[]")
    with CanonicalWriter(rows) as writer:
        for row in range(1_000_000):
            writer.write(Example(row, "百度流量月包怎么取消", ("取消方式_12",)))
    with unit_of_work(api.engine) as session:
        report = DatasetReport(rows=1_000_000)
        file = datasets.create(
            session, api.app.state.blobs, upload, filename="rows.json", purpose="fine-tune", report=report, rows=rows
        )
        file_id = file.id

    start = time.perf_counter()
    # No row fits the short one, so as many rows are looked at as ever are; training would find out about the others.
    assert post(api, file_id, cutoff_len=16).status_code == 200
    assert post(api, file_id).status_code == 200
    assert time.perf_counter() - start < 2


class TestTheMemoryLimit:
    @pytest.fixture
    def limited(self, tmp_path: Path, databases: Databases, request: pytest.FixtureRequest) -> Iterator[Api]:
        with databases.database("sqlite") as url, running_api(tmp_path, url, memory_limit_gib=request.param / 1024) as api:
            yield api

    # MiB. The weights take 0.9, the quick preset's smallest step with the longest row 6.
    @pytest.mark.parametrize("limited", [64], indirect=True)
    def test_a_job_within_the_limit_is_taken(self, limited: Api) -> None:
        assert post(limited, limited.file_id(), preset="quick").status_code == 200

    @pytest.mark.parametrize("limited", [0.5], indirect=True)
    def test_a_base_model_beyond_the_limit_is_refused(self, limited: Api) -> None:
        assert refusal(limited, limited.file_id(), preset="quick") == ("out_of_device_memory", "model")

    @pytest.mark.parametrize("limited", [2], indirect=True)
    def test_a_rank_beyond_the_limit_is_refused(self, limited: Api) -> None:
        assert refusal(limited, limited.file_id(), preset="quick", lora_rank=128) == ("out_of_device_memory", "lora_rank")
        assert post(limited, limited.file_id(), preset="quick", lora_rank=1).status_code == 200

    @pytest.mark.parametrize("limited", [2.5], indirect=True)
    def test_rows_beyond_the_limit_name_the_cut_off(self, limited: Api) -> None:
        long_row = limited.file_id(content=alpaca(({"instruction": "长" * 300, "output": "9.9"},)))

        assert refusal(limited, long_row, preset="quick", lora_rank=1, cutoff_len=1000) == ("out_of_device_memory", "cutoff_len")
        assert post(limited, long_row, preset="quick", lora_rank=1, cutoff_len=100).status_code == 200

    @pytest.mark.parametrize("limited", [1.5], indirect=True)
    def test_fp32_beyond_the_limit_is_refused(self, limited: Api) -> None:
        asked = {"preset": "quick", "lora_rank": 1}

        assert refusal(limited, limited.file_id(), precision="fp32", **asked) == ("out_of_device_memory", "precision")
        assert post(limited, limited.file_id(), **asked).status_code == 200


def test_a_dry_run_tells_what_a_job_needs(api: Api) -> None:
    body = post(api, api.file_id(), dry_run=True, preset="quick", lora_rank=8, n_epochs=5).json()

    # 3 rows in batches of 8; a byte a token, a BOS and a newline; r (in + out) in 2 layers.
    assert (body["rows"], body["steps"], body["rows_left_out"], body["rows_truncated"]) == (3, 5, 0, 0)
    assert body["prompt_tokens_max"] == len("百度流量月包怎么取消".encode()) + 2
    sides = [128 + 256, 128 + 128, 128 + 128, 256 + 128, 3 * (128 + 256)]
    assert body["trainable_parameters"] == 2 * 8 * sum(sides)
    assert 0 < body["peak_memory_gib"] <= 0.1
    assert [serving["engine"] for serving in body["serving"]] == ["Dianda's answerer", "vLLM, adapter unmerged"]


class TestTheTeachers:
    def test_an_adapter_of_another_base_model_is_refused(self, api: Api) -> None:
        teacher = insert_adapter(api.engine, base_model="gemma-2b")
        assert refusal(api, api.file_id(), distill_from=[teacher], loss_over="allowed") == (
            "invalid_hyperparameter",
            "distill_from",
        )

    def test_an_adapter_that_there_is_not_is_named(self, api: Api) -> None:
        response = post(api, api.file_id(), distill_from=["telecom:9"], loss_over="allowed")
        assert (response.status_code, response.json()["error"]["param"]) == (404, f"{PARAM_PREFIX}distill_from")
        assert row_count(api.engine, Job) == 0

    def test_an_adapter_that_an_unfinished_job_learns_from_stays(self, api: Api) -> None:
        teacher, other = insert_adapter(api.engine, base_model=BASE), insert_adapter(api.engine, base_model=BASE)
        job = post(api, api.file_id(), distill_from=[teacher], loss_over="allowed").json()
        response = api.client.delete(f"/v1/models/{teacher}")
        assert (response.status_code, job["id"] in response.json()["error"]["message"]) == (409, True)
        assert api.client.delete(f"/v1/models/{other}").status_code == 200
        api.client.post(f"{JOBS}/{job['id']}/cancel")
        assert api.client.delete(f"/v1/models/{teacher}").status_code == 200
