"""Experiments whose jobs a scripted worker ends at once."""

import json
from typing import Any

from sqlalchemy import update

from app.datasets.service import RESULTS_PURPOSE
from app.db.unit_of_work import read_only, unit_of_work
from app.evaluations import service as evaluations
from app.experiments import service
from app.jobs import service as jobs
from app.jobs.leases import Lease
from app.jobs.models import Job
from app.jobs.repository import EVALUATION
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.evaluation_metrics import measure
from tests.fixtures.api import BASE, Api
from tests.fixtures.queue import claim, insert_file

CODES = ("取消方式_1", "开通方式_2|9.9", "业务简介_11", "11.9")
MANY = json.dumps(
    [{"instruction": f"第{row}个问题怎么办", "output": CODES[row % len(CODES)]} for row in range(40)], ensure_ascii=False
).encode()
HYPERPARAMETERS = {"preset": "quick", "lora_rank": 4}


def post(api: Api, vary: dict[str, Any], **fields: Any) -> Any:
    """Posts an experiment on 40 training rows."""
    body = {
        "model": BASE,
        "training_file": fields.pop("training_file", None) or api.file_id(content=MANY),
        "test_file": fields.pop("test_file", None) or api.file_id(purpose="evals"),
        "hyperparameters": HYPERPARAMETERS,
        "vary": vary,
        **fields,
    }
    return api.client.post("/v1/experiments", json={name: value for name, value in body.items() if value is not None})


def get(api: Api, experiment_id: str, what: str = "") -> Any:
    """Returns an experiment, or its comparison."""
    return api.client.get(f"/v1/experiments/{experiment_id}{what}").json()


def advance(api: Api) -> None:
    """Runs the upkeep loop's part once."""
    service.advance_all(api.engine, store=api.app.state.model_store, bell=api.bell, max_unfinished=1000)


def finish_next(api: Api, *, right: int = 0, seconds: float = 2.0) -> str | None:
    """Ends the next job as a worker would: a training with an adapter, an evaluation with `right` of 20 rows right."""
    lease = claim(api.engine)
    if lease is None:
        return None
    with read_only(api.engine) as session:
        kind = session.get_one(Job, lease.job_id).kind
    _evaluate(api, lease, right) if kind == EVALUATION else _train(api, lease, seconds)
    return kind


def _train(api: Api, lease: Lease, seconds: float) -> None:
    file_id = insert_file(api.engine, has_report=False, purpose=RESULTS_PURPOSE)
    curve = api.settings.blobs_dir / "files" / file_id
    curve.parent.mkdir(exist_ok=True)
    lines = [f"{step},{step / 10},{3 / step},0.001,1.0" for step in range(1, 501)]
    curve.write_text("\n".join(["step,epoch,loss,learning_rate,grad_norm", *lines]) + "\n")
    metrics = {
        "train_seconds": seconds,
        "train_samples_per_s": 20.0,
        "trainable_parameters": 1234,
        "by_epoch": [{"epoch": 1.0, "step": 5, "exact_match": 0.5, "eval_loss": 0.7}],
    }
    with unit_of_work(api.engine) as session:
        session.execute(update(Job).where(Job.id == lease.job_id).values(progress={"peak_memory_bytes": 3 * 2**30}))
        assert jobs.finish_finetune(
            session,
            lease,
            checksum=f"{lease.job_id[-12:]:0>64}",
            blob_key=f"adapters/{lease.job_id}",
            metrics=metrics,
            trained_tokens=100,
            result_file_ids={"loss.csv": file_id},
        )


def _evaluate(api: Api, lease: Lease, right: int) -> None:
    rows = [
        EvaluatedRow(
            row=number + 1,
            question=f"问{number}",
            expected=("取消方式_1",),
            given=("取消方式_1",) if number < right else ("取消方式_2",),
            code_confidences=(0.5,),
            confidence=0.5,
            in_vocabulary=True,
            fallback=None,
            latency_ms=1.0,
            passes=1,
        )
        for number in range(20)
    ]
    with unit_of_work(api.engine) as session:
        assert evaluations.keep_rows(session, lease, rows)
        assert evaluations.finish(session, lease, metrics=measure(rows) | {"device": "a card"})
