"""The whole loop over HTTP, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.durable import verify_folder
from app.ml.adapter_card import read_card
from tests.fixtures.db import Databases
from tests.fixtures.tiny import TINY
from tests.integration.conftest import Product, start_product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def on_postgresql(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Product]:
    with databases.database("postgresql") as url:
        yield from start_product(tmp_path_factory.mktemp("product-pg"), url)


@pytest.fixture(params=["product", "on_postgresql"])
def any_product(request: pytest.FixtureRequest) -> Product:
    product: Product = request.getfixturevalue(request.param)
    return product


def test_a_dataset_becomes_a_promoted_adapter_that_answers_with_its_codes(any_product: Product) -> None:
    product = any_product
    training = product.upload()
    body_question = "问题0号怎么办"
    job_id = product.start_job(training, "loop", n_epochs=30, learning_rate=1e-2)
    job = product.wait_status(job_id, "succeeded", "failed")
    assert job["status"] == "succeeded", job
    assert job["fine_tuned_model"] == "loop:1"
    assert job["trained_tokens"] > 0

    evaluation = product.client.post("/v1/evaluations", {"model": "loop:1", "file": training})
    done = product.wait_evaluation(evaluation["id"])
    assert done["status"] == "succeeded", done
    assert done["metrics"]["rows"] == 16
    assert done["metrics"]["invalid_rate"] == 0
    rows = product.client.get(f"/v1/evaluations/{evaluation['id']}/rows")["data"]
    assert len(rows) == 16
    assert sum(row["match"] for row in rows) / 16 == done["metrics"]["exact_match"]

    product.client.put("/v1/aliases/loop@production", {"to": "loop:1"})
    answer = product.client.post("/answer", {"question": body_question, "model": "loop@production", "alternatives": 2})
    known = {"取消方式_1", "开通方式_2", "9.9", "业务简介_11", "11.9"}
    assert {code["code"] for code in answer["codes"]} <= known
    assert answer["adapter"] == "loop:1"
    assert answer["answer"].split("|") == next(row for row in rows if row["question"] == body_question)["given"]
    base = product.client.post("/answer", {"question": body_question, "model": TINY})
    assert base["adapter"] is None
    assert base["fallback"]["triggered"]


def test_an_adapter_explains_itself_and_its_loss_curve_can_be_fetched(any_product: Product) -> None:
    product = any_product
    training = product.upload()
    job_id = product.start_job(training, "card", n_epochs=2)
    job = product.wait_status(job_id, "succeeded", "failed")
    names = job["result_file_names"]
    csv = product.client.get_bytes(f"/v1/files/{names['loss.csv']}/content").decode().splitlines()
    assert csv[0] == "step,epoch,loss,learning_rate,grad_norm"
    assert len(csv) == 1 + 2 * 2
    assert product.client.get_bytes(f"/v1/files/{names['loss.png']}/content").startswith(b"\x89PNG")
    model = product.client.get(f"/v1/models/{job['fine_tuned_model']}")
    folder = Path(product.stack.settings.data_dir) / "blobs" / "adapters" / model["checksum"]
    assert verify_folder(folder) == model["checksum"]
    card = read_card(folder)
    assert card.base_model == TINY
    assert card.dataset_checksum == product.client.get(f"/v1/files/{training}")["sha256"]
    assert "torch" in card.versions


def test_a_job_with_a_validation_file_is_scored_each_epoch_and_publishes_its_best(product: Product) -> None:
    training, held_out = product.upload(), product.upload(8, purpose="evals")
    asked = {"preset": "quick", "n_epochs": 3, "lora_rank": 4, "learning_rate": 1e-2, "load_best_model_at_end": True}
    body = {
        "model": TINY,
        "training_file": training,
        "validation_file": held_out,
        "suffix": "held",
        "method": {"type": "supervised", "supervised": {"hyperparameters": asked}},
    }
    job_id = product.client.post("/v1/fine_tuning/jobs", body)["id"]
    job = product.wait_status(job_id, "succeeded", "failed")
    assert job["status"] == "succeeded", job
    metrics = job["metrics"]
    assert [(scores["epoch"], scores["step"], scores["rows"]) for scores in metrics["by_epoch"]] == [
        (1, 2, 8),
        (2, 4, 8),
        (3, 6, 8),
    ]
    events = product.client.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=100")["data"]
    told = [event["data"] for event in reversed(events) if event["type"] == "metrics" and "eval_loss" in event["data"]]
    assert told == metrics["by_epoch"]

    best = max(metrics["by_epoch"], key=lambda scores: scores["exact_match"])
    assert (metrics["best"]["step"], metrics["best"]["is_published"]) == (best["step"], True)
    assert metrics["validation"] == {name: best[name] for name in metrics["validation"]}
    evaluation = product.client.post("/v1/evaluations", {"model": job["fine_tuned_model"], "file": held_out})
    evaluated = product.wait_evaluation(evaluation["id"])["metrics"]
    assert {name: evaluated[name] for name in metrics["validation"]} == metrics["validation"]

    checkpoints = product.client.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints")["data"]
    # The two newest, the last step's among them, and the best.
    kept = [scores for scores in reversed(told) if scores["step"] in (6, 4, best["step"])]
    assert [(checkpoint["step_number"], checkpoint["metrics"]["eval_loss"]) for checkpoint in checkpoints] == [
        (scores["step"], scores["eval_loss"]) for scores in kept
    ]
    assert sum(checkpoint["is_best"] for checkpoint in checkpoints) == 1
