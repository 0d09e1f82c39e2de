"""An evaluation inside the child on the tiny Gemma, and the recipe around it with a real child."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.blobs.keys import rows_key
from app.blobs.local import LocalBlobStore
from app.db.unit_of_work import read_only, unit_of_work
from app.durable import verify_folder
from app.errors import AppError
from app.evaluations import repository, service
from app.evaluations.service import EvaluationPlan
from app.jobs import leases
from app.ml.engine.training import Wish
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.model_store import ModelStore
from app.ml.spec import resolve_spec
from tests.fixtures.queue import RecordingDoorbell, insert_file, must_claim, read_job
from tests.fixtures.tiny import TINY, make_tiny_store
from tests.fixtures.worker import worker_context
from tests.worker.assignments import training_assignment
from worker import tasks
from worker.assignment import Assignment
from worker.child import finetune
from worker.evaluation_child import evaluate
from worker.line import Line
from worker.messages import Answered, CheckpointWritten, Finished, Message, Stopped

TRAINED = [{"instruction": f"问题{row}", "output": ("开通方式_1|9.9", "取消方式_2")[row % 2]} for row in range(8)]
# Row 1 was trained on as it stands; of the others' questions none was, and of row 4's codes one was not.
ASKED = [
    {"instruction": "问题0", "output": "开通方式_1|9.9", "答案类型": "属性值"},
    {"instruction": "新的问题1", "output": "取消方式_2", "答案类型": "属性值"},
    {"instruction": "新的问题2", "output": "取消方式_2|9.9", "答案类型": "并列句"},
    {"instruction": "新的问题3", "output": "业务简介_7"},
    *({"instruction": f"新的问题{row}", "output": "取消方式_2"} for row in range(4, 20)),
]
SPEC = resolve_spec({"preset": "quick", "lora_rank": 4, "batch_size": 4, "n_epochs": 3, "precision": "fp32"})
PLAN = EvaluationPlan(adapter_checksum=None, checkpoint=None, max_rows=None, threshold=None, precision=None)


class KeepingLine(Line):
    """Keeps what is said; wishes to stop from the n-th question on."""

    def __init__(self, *, stop_from: int | None = None) -> None:
        self.said: list[Message] = []
        self._stop_from, self._asked = stop_from, 0

    def say(self, message: Message) -> None:
        self.said.append(message)

    def wish(self) -> Wish:
        self._asked += 1
        return Wish.SAVE_AND_STOP if self._stop_from is not None and self._asked >= self._stop_from else Wish.NONE

    @property
    def rows(self) -> list[EvaluatedRow]:
        told = [message.rows for message in self.said if isinstance(message, Answered)]
        return [EvaluatedRow.from_mapping(row) for rows in told for row in rows]


@pytest.fixture(scope="module")
def dialect() -> str:
    """One database: what the rows do on both is tested beside the endpoints, and a child takes seconds to start."""
    return "sqlite"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return make_tiny_store(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def trained(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CheckpointWritten]:
    """The adapter of a training, and the checkpoint of its last step."""
    folder, line = tmp_path_factory.mktemp("training"), KeepingLine()
    rows = folder / "rows.json"
    rows.write_text(json.dumps(TRAINED))
    base = store.get(TINY)
    assignment = training_assignment(base, rows, SPEC, validation=rows)
    assert isinstance(finetune(assignment, folder, line), Finished)
    return folder / "output" / "adapter", [said for said in line.said if isinstance(said, CheckpointWritten)][-1]


def asked(store: ModelStore, folder: Path, trained: Path | None, **fields: Any) -> Assignment:
    folder.mkdir(exist_ok=True)
    (folder / "asked.json").write_text(json.dumps(ASKED))
    (folder / "trained.json").write_text(json.dumps(TRAINED))
    base = store.get(TINY)
    values: dict[str, Any] = {
        "kind": "evaluation",
        "base_model": TINY,
        "base_model_folder": str(base.path),
        "base_model_checksum": base.checksum,
        "dataset": str(folder / "asked.json"),
        "dataset_checksum": "0" * 64,
        "validation": None,
        "spec": asdict(PLAN),
        "seed": 0,
        "resume_from": None,
        "adapter_folder": None if trained is None else str(trained),
        "adapter_checksum": None if trained is None else verify_folder(trained),
        "max_rows": None,
        "threads": 1,
        "training": None if trained is None else str(folder / "trained.json"),
        **fields,
    }
    return Assignment(**values)


def answers(rows: list[EvaluatedRow]) -> list[tuple[object, ...]]:
    return [(row.row, row.given, row.confidence, row.fallback, dict(row.slices)) for row in rows]


def scores(ending: Message) -> dict[str, Any]:
    assert isinstance(ending, Finished)
    timed = {"latency_ms", "answers_per_s", "mean_passes"}
    return {name: value for name, value in ending.result["metrics"].items() if name not in timed}


@pytest.fixture(scope="module")
def whole(store: ModelStore, trained: tuple[Path, CheckpointWritten], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, line = tmp_path_factory.mktemp("whole"), KeepingLine()
    return line, evaluate(asked(store, folder, trained[0]), folder, line)


def test_every_row_is_told_once_and_the_metrics_are_those_of_all(whole: Any) -> None:
    line, ending = whole
    assert [row.row for row in line.rows] == list(range(1, len(ASKED) + 1))
    metrics = scores(ending)
    assert metrics["rows"] == len(ASKED)
    assert metrics["exact_match"] == sum(row.is_right for row in line.rows) / len(ASKED)
    assert (metrics["invalid_rate"], metrics["is_calibrated"]) == (0.0, False)
    assert all(row.latency_ms > 0 and row.passes > 0 for row in line.rows)


def test_rows_say_what_training_showed_of_them(whole: Any) -> None:
    line, ending = whole
    names = ("question_in_training", "answer_in_training", "codes_in_training", "code_count")
    found = [tuple(row.slices[name] for name in names) for row in line.rows[:4]]
    assert found == [
        ("seen", "seen", "seen", "2"),
        ("unseen", "seen", "seen", "1"),
        ("unseen", "unseen", "seen", "2"),
        ("unseen", "unseen", "unseen", "1"),
    ]
    slices = scores(ending)["slices"]
    assert slices["答案类型"]["属性值"]["rows"] == 2
    assert slices["codes_in_training"]["unseen"] | {"set_f1": 0.0} == slices["codes_in_training"]["unseen"]
    assert scores(ending)["training_known_from"] == "training_file"


def test_without_its_training_file_an_adapter_still_knows_its_answers(
    store: ModelStore, trained: tuple[Path, CheckpointWritten], tmp_path: Path
) -> None:
    line = KeepingLine()
    ending = evaluate(asked(store, tmp_path, trained[0], training=None), tmp_path, line)
    assert scores(ending)["training_known_from"] == "question_index"
    assert [row.slices["answer_in_training"] for row in line.rows[:3]] == ["seen", "seen", "unseen"]
    assert "question_in_training" not in line.rows[0].slices


def test_an_evaluation_goes_on_behind_the_rows_that_were_kept(
    store: ModelStore, trained: tuple[Path, CheckpointWritten], tmp_path: Path, whole: Any
) -> None:
    first, second = KeepingLine(stop_from=1), KeepingLine()
    assert evaluate(asked(store, tmp_path / "one", trained[0]), tmp_path / "one", first) == Stopped()
    assert [row.row for row in first.rows] == list(range(1, 17)), "the batch under way was told"
    kept = tmp_path / "kept.jsonl"
    kept.write_text("".join(json.dumps(row.to_mapping()) + "\n" for row in first.rows))

    ending = evaluate(asked(store, tmp_path / "two", trained[0], answered=str(kept)), tmp_path / "two", second)

    assert [row.row for row in second.rows] == list(range(17, 21))
    assert answers(first.rows + second.rows) == answers(whole[0].rows)
    assert scores(ending) == scores(whole[1])


def test_a_checkpoint_answers_as_the_adapter_that_was_made_of_it(
    store: ModelStore, trained: tuple[Path, CheckpointWritten], tmp_path: Path, whole: Any
) -> None:
    line, plan = KeepingLine(), asdict(replace(PLAN, checkpoint="ftckpt-1"))
    assignment = asked(store, tmp_path, None, spec=plan | {"training_spec": SPEC.to_mapping()})
    assignment = replace(assignment, adapter_folder=trained[1].folder, training=str(tmp_path / "trained.json"))
    evaluate(assignment, tmp_path, line)
    assert [row.given for row in line.rows] == [row.given for row in whole[0].rows]
    assert [row.slices for row in line.rows] == [row.slices for row in whole[0].rows]


def test_a_checkpoint_whose_codes_are_single_tokens_answers_as_its_adapter_does(store: ModelStore, tmp_path: Path) -> None:
    spec, rows = replace(SPEC, answer_format="single_tokens"), tmp_path / "rows.json"
    rows.write_text(json.dumps(TRAINED))
    training, line = tmp_path / "training", KeepingLine()
    training.mkdir()
    assert isinstance(finetune(training_assignment(store.get(TINY), rows, spec, validation=rows), training, line), Finished)
    written = [said for said in line.said if isinstance(said, CheckpointWritten)][-1]
    of_adapter, of_checkpoint = KeepingLine(), KeepingLine()
    evaluate(asked(store, tmp_path / "adapter", training / "output" / "adapter"), tmp_path / "adapter", of_adapter)
    plan = asdict(replace(PLAN, checkpoint="ftckpt-1")) | {"training_spec": spec.to_mapping()}
    assignment = asked(store, tmp_path / "checkpoint", None, spec=plan)
    assignment = replace(assignment, adapter_folder=written.folder, training=str(rows))
    evaluate(assignment, tmp_path / "checkpoint", of_checkpoint)
    assert any(row.is_right for row in of_adapter.rows)
    assert [row.given for row in of_checkpoint.rows] == [row.given for row in of_adapter.rows]


def test_a_base_model_alone_is_held_against_the_codes_of_the_file(store: ModelStore, tmp_path: Path) -> None:
    line = KeepingLine()
    metrics = scores(evaluate(asked(store, tmp_path, None, max_rows=3), tmp_path, line))
    assert (metrics["rows"], metrics["exact_match"], metrics["invalid_rate"], metrics["fallback_rate"]) == (3, 0.0, 1.0, 1.0)
    assert set(metrics["slices"]) == {"答案类型", "code_count"}


def test_a_threshold_hands_uncertain_rows_over(
    store: ModelStore, trained: tuple[Path, CheckpointWritten], tmp_path: Path
) -> None:
    line = KeepingLine()
    plan = asdict(replace(PLAN, threshold=1.0))
    metrics = scores(evaluate(asked(store, tmp_path, trained[0], spec=plan, max_rows=4), tmp_path, line))
    assert {row.fallback for row in line.rows if row.confidence < 1.0} == {"low_confidence"}
    assert metrics["fallback_rate"] == sum(row.confidence < 1.0 for row in line.rows) / 4


def test_answers_may_be_chosen_by_the_sets_of_a_beam(
    store: ModelStore, trained: tuple[Path, CheckpointWritten], tmp_path: Path, whole: Any
) -> None:
    line, plan = KeepingLine(), asdict(replace(PLAN, decide_by="set"))
    metrics = scores(evaluate(asked(store, tmp_path, trained[0], spec=plan), tmp_path, line))

    # A set's probability is that of all its orders together, so no best set is less likely than the likeliest answer.
    pairs = list(zip(line.rows, whole[0].rows, strict=True))
    assert all(by_set.confidence >= likeliest.confidence - 1e-3 for by_set, likeliest in pairs)
    assert any(by_set.confidence > likeliest.confidence + 1e-3 for by_set, likeliest in pairs)
    assert metrics["is_calibrated"] is False


def test_a_question_that_no_answerer_takes_is_named_by_its_row(
    store: ModelStore, trained: tuple[Path, CheckpointWritten], tmp_path: Path
) -> None:
    assignment = asked(store, tmp_path, trained[0])
    (tmp_path / "asked.json").write_text(json.dumps([*ASKED[:2], {"instruction": "x" * 2049, "output": "9.9"}]))
    with pytest.raises(AppError, match="Row 3 of the file") as caught:
        evaluate(assignment, tmp_path, KeepingLine())
    assert caught.value.param == "file"


def test_a_killed_evaluation_keeps_its_rows_and_ends_with_all_of_them(engine: Engine, store: ModelStore, tmp_path: Path) -> None:
    blobs, work = LocalBlobStore(tmp_path / "blobs"), tmp_path / "work"
    work.mkdir()
    file_id = insert_file(engine)
    (work / "rows.json").write_text(json.dumps(ASKED))
    blobs.put_file(rows_key(f"files/{file_id}"), work / "rows.json")
    with unit_of_work(engine) as session:
        evaluation_id = service.create(
            session, model=TINY, file_id=file_id, max_rows=None, store=store, bell=RecordingDoorbell(), max_unfinished=9
        ).id
    lease, line = must_claim(engine), KeepingLine(stop_from=1)
    evaluate(asked(store, tmp_path / "child", None), tmp_path / "child", line)
    with unit_of_work(engine) as session:
        assert service.keep_rows(session, lease, [replace(row, question="kept") for row in line.rows])
        leases.interrupt(session, lease, reason="killed.")
    context = worker_context(engine, work, blobs=blobs, store=store, work_dir=work, owner="worker-2", stop_grace_s=10)

    tasks.run(context, must_claim(engine))

    assert read_job(engine, lease.job_id).status == "succeeded"
    with read_only(engine) as session:
        rows = repository.answered_rows(session, evaluation_id)
        metrics = repository.get(session, evaluation_id).metrics
    assert [row.question == "kept" for row in rows] == [True] * 16 + [False] * 4
    assert metrics is not None
    assert metrics["rows"] == len(ASKED)
