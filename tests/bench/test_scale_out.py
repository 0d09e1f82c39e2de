"""The scripted training of `python -m bench.scale_out`: a child like the real one, but for the training."""

from pathlib import Path

import pytest

from app.durable import verify_folder
from bench.load.visits import dataset
from bench.scale_out.__main__ import table
from bench.scale_out.scripted_child import EVALUATION_S, TRAINING_S
from worker import supervision
from worker.assignment import OUTPUT, Assignment
from worker.messages import Answered, Finished, Message
from worker.supervision import Ending, Want, run_child


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "CHILD", "bench.scale_out.scripted_child")
    monkeypatch.setenv(TRAINING_S, "0")
    monkeypatch.setenv(EVALUATION_S, "0")


def run(folder: Path, kind: str, told: list[Message]) -> Ending:
    rows = folder / "rows.json"
    rows.write_bytes(dataset(4))
    assignment = Assignment(
        kind=kind,  # type: ignore[arg-type]
        base_model="tiny",
        base_model_folder="",
        base_model_checksum="c",
        dataset=str(rows),
        dataset_checksum="d",
        validation=None,
        spec={},
        seed=0,
        resume_from=None,
        adapter_folder=None,
        adapter_checksum=None,
        max_rows=None,
        threads=None,
    )
    return run_child(folder, assignment, fence=1, on_message=told.append, want=lambda: Want.GO_ON, stop_grace_s=5)


def test_a_scripted_training_leaves_a_whole_adapter_and_a_loss_curve(tmp_path: Path) -> None:
    ending = run(tmp_path, "finetune", [])

    assert isinstance(ending.last, Finished)
    assert verify_folder(tmp_path / OUTPUT / "adapter") == ending.last.result["checksum"]
    assert (tmp_path / OUTPUT / "loss.csv").read_text().count("\n") == 6


def test_a_scripted_evaluation_finds_everything_right(tmp_path: Path) -> None:
    told: list[Message] = []
    ending = run(tmp_path, "evaluation", told)

    assert isinstance(ending.last, Finished)
    assert ending.last.result["metrics"]["exact_match"] == 1
    assert [len(message.rows) for message in told if isinstance(message, Answered)] == [4]


def test_the_table_has_a_row_a_number_of_workers() -> None:
    row = {"workers": 2, "wall_s": 1.0, "lowest_to_highest_s": [0.9, 1.1], "of_the_first": 0.5}

    assert table({"workers": [row]})[-1] == "| 2 | 1.0 s | 0.9 to 1.1 s | 0.5 |"
