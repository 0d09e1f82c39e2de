"""What the training process refuses, and how it stands in the job afterwards."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.blobs.local import LocalBlobStore
from app.durable import seal_folder
from app.errors import AppError, NotFound
from app.ml.engine.device import limit_memory
from app.ml.formats.canonical import CanonicalWriter
from app.ml.formats.example import Example
from app.ml.spec import resolve_spec
from tests.app.ml.engine.training_help import CPU
from tests.fixtures.queue import insert_adapter, insert_file, insert_job, must_claim, read_job
from tests.fixtures.tiny import make_tiny_store
from tests.fixtures.worker import worker_context
from tests.worker.assignments import training_assignment
from worker.assignment import Assignment
from worker.child import finetune
from worker.context import WorkerContext
from worker.finetune import run_finetune
from worker.line import Line

PREFIX = "method.supervised.hyperparameters."
GOOD = [Example(row, f"问题{row}", ("开通方式_1",)) for row in range(4)]
LONG = [Example(row, f"问题{row}", tuple(f"取消方式_{code}" for code in range(8))) for row in range(4)]


def write_rows(path: Path, rows: list[Example]) -> Path:
    with CanonicalWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return path


def an_assignment(place: Path, rows: list[Example] = GOOD, **hyperparameters: Any) -> Assignment:
    base = make_tiny_store(place / "models").get("tiny-gemma")
    asked = {"preset": "quick", "lora_rank": 4, "precision": "fp32", **hyperparameters}
    return training_assignment(base, write_rows(place / "rows", rows), resolve_spec(asked))


def refusal(assignment: Assignment, folder: Path) -> tuple[str, str | None]:
    with pytest.raises(AppError) as caught:
        finetune(assignment, folder, Line(os.open(os.devnull, os.O_WRONLY)))
    limit_memory(CPU, None)
    return caught.value.code, caught.value.param


@pytest.mark.parametrize(("field", "value"), [("lora_rank", 17), ("cutoff_len", 1025)])
def test_a_spec_that_cannot_work_on_the_base_model_is_refused_again(tmp_path: Path, field: str, value: int) -> None:
    assert refusal(an_assignment(tmp_path, **{field: value}), tmp_path) == ("invalid_hyperparameter", field)


def test_answers_that_leave_no_room_are_refused(tmp_path: Path) -> None:
    assert refusal(an_assignment(tmp_path, LONG, cutoff_len=32), tmp_path) == ("nothing_to_train", "cutoff_len")


def test_no_rows_are_refused(tmp_path: Path) -> None:
    assert refusal(an_assignment(tmp_path, []), tmp_path) == ("no_rows", "training_file")


def test_no_held_out_rows_are_refused_before_training(tmp_path: Path) -> None:
    assignment = replace(an_assignment(tmp_path), validation=str(write_rows(tmp_path / "held-out", [])))

    assert refusal(assignment, tmp_path) == ("no_rows", "validation_file")


def test_what_cannot_fit_into_the_memory_limit_is_refused(tmp_path: Path) -> None:
    assignment = replace(an_assignment(tmp_path), memory_limit_gib=0.0001)

    assert refusal(assignment, tmp_path) == ("out_of_device_memory", "model")


def a_context(engine: Engine, blobs: LocalBlobStore, place: Path) -> WorkerContext:
    return worker_context(engine, place, blobs=blobs, store=make_tiny_store(place / "models"), stop_grace_s=10)


@pytest.mark.integration
def test_a_job_whose_answers_leave_no_room_fails_with_the_fields_name(engine: Engine, tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path / "blobs")
    (tmp_path / "work").mkdir()
    file_id = insert_file(engine)
    blobs.put_file(f"files/{file_id}", write_rows(tmp_path / "rows", LONG))
    asked = {"preset": "quick", "lora_rank": 4, "precision": "fp32", "cutoff_len": 32}
    job_id = insert_job(engine, training_file_id=file_id, spec=resolve_spec(asked).to_mapping(), hyperparameters=asked)
    context = a_context(engine, blobs, tmp_path)

    run_finetune(context, must_claim(engine))

    job = read_job(engine, job_id)
    assert (job.status, job.error_code, job.error_param) == ("failed", "nothing_to_train", f"{PREFIX}cutoff_len")
    assert "Raise cutoff_len" in (job.error_message or "")


def test_where_there_is_but_one_answer_a_loss_over_choices_is_refused(tmp_path: Path) -> None:
    assert refusal(an_assignment(tmp_path, loss_over="allowed"), tmp_path) == ("nothing_to_train", "loss_over")


@pytest.mark.parametrize("has_files", [False, True])
def test_a_job_whose_teacher_is_gone_or_damaged_says_so(engine: Engine, tmp_path: Path, has_files: bool) -> None:
    blobs = LocalBlobStore(tmp_path / "blobs")
    (tmp_path / "work").mkdir()
    file_id, teacher = insert_file(engine), insert_adapter(engine, checksum="a" * 64)
    blobs.put_file(f"files/{file_id}", write_rows(tmp_path / "rows", GOOD))
    if has_files:
        (tmp_path / "adapter").mkdir()
        seal_folder(tmp_path / "adapter")
        blobs.put_folder("adapters/" + "a" * 64, tmp_path / "adapter")
    spec = resolve_spec({"loss_over": "allowed", "distill_from": [teacher]}).to_mapping()
    insert_job(engine, training_file_id=file_id, spec=spec)
    with pytest.raises(NotFound) as caught:
        run_finetune(a_context(engine, blobs, tmp_path), must_claim(engine))
    assert caught.value.param == f"{PREFIX}distill_from"
