"""A job's extra codes go from its row into the vocabulary of its adapter."""

import json
import os
from pathlib import Path

from sqlalchemy import Engine

from app.blobs.local import LocalBlobStore
from app.db.unit_of_work import unit_of_work
from app.ml.adapter_card import read_card
from app.ml.spec import resolve_spec
from tests.fixtures.queue import insert_file, insert_job, must_claim, read_job
from tests.fixtures.tiny import TINY, make_tiny_store
from tests.fixtures.worker import worker_context
from worker.assignment import Assignment, read_assignment, write_assignment
from worker.child import finetune
from worker.finetune import _assignment
from worker.line import Line
from worker.messages import Finished

ROWS = [{"instruction": f"问题{row}", "output": "开通方式_1|9.9"} for row in range(8)]


def test_the_adapter_may_answer_with_the_job_s_extra_codes(engine: Engine, tmp_path: Path) -> None:
    blobs, folder = LocalBlobStore(tmp_path / "blobs"), tmp_path / "work"
    folder.mkdir()
    rows = tmp_path / "rows"
    rows.write_text(json.dumps(ROWS))
    file_id = insert_file(engine)
    blobs.put_file(f"files/{file_id}", rows)
    spec = resolve_spec({"preset": "quick", "lora_rank": 4, "n_epochs": 1, "precision": "fp32"})
    job_id = insert_job(engine, training_file_id=file_id, spec=spec.to_mapping(), extra_codes=["取消方式_7", "9.9"])
    context = worker_context(engine, tmp_path, blobs=blobs, store=make_tiny_store(tmp_path / "models"))
    write_assignment(folder, _assignment(context, must_claim(engine), read_job(engine, job_id), folder))
    assignment: Assignment = read_assignment(folder)
    assert (assignment.base_model, assignment.extra_codes) == (TINY, ["取消方式_7", "9.9"])

    ending = finetune(assignment, folder, Line(os.open(os.devnull, os.O_WRONLY)))

    assert isinstance(ending, Finished)
    vocabulary = read_card(folder / "output" / "adapter").vocabulary
    assert vocabulary.codes == ("开通方式_1", "9.9", "取消方式_7")
    assert vocabulary.max_codes_per_answer == 2


def test_a_job_of_before_the_code_book_has_none(engine: Engine) -> None:
    from app.jobs import repository

    job_id = insert_job(engine)
    with unit_of_work(engine) as session:
        assert repository.extra_codes(session, job_id) == []
