import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.durable import verify_folder
from app.ml.engine import epoch_evaluation
from app.ml.engine.adapter_copy import copy_adapter
from app.ml.engine.lora import ADAPTER_WEIGHTS, save_adapter
from app.ml.engine.training import TrainResult, Wish
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from app.ml.spec import BestMetric
from tests.app.ml.engine.test_training import SHORT, assert_same_run
from tests.app.ml.engine.training_help import RecordingHooks, run

# 3 steps an epoch, 9 in all.
HELD_OUT = (
    Example(1, "how to stop plan B", ("stop_1",)),
    Example(2, "how to open B", ("open_1",)),
    Example(3, "price of A", ("9.9", "info_1")),
)


@pytest.fixture(scope="module")
def evaluated(sharp_folder: BaseModelFolder, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(sharp_folder, SHORT, tmp_path_factory.mktemp("evaluated"), held_out=HELD_OUT)


def script(monkeypatch: pytest.MonkeyPatch, metric: str, *values: float) -> None:
    """Lets the epochs score what the test says, in the order in which they are scored."""
    told: Iterator[float] = iter(values)

    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        return {"exact_match": 0.0, "rows": 3, metric: next(told)}

    monkeypatch.setattr(epoch_evaluation, "evaluate", evaluate)


def adapter_files(folder: Path, network: Any) -> dict[str, torch.Tensor]:
    save_adapter(network, folder)
    return load_file(folder / ADAPTER_WEIGHTS)


def assert_equal_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_that_is_evaluated_trains_bit_for_bit_like_one_that_is_not(
    sharp_folder: BaseModelFolder, tmp_path: Path, evaluated: TrainResult
) -> None:
    # SHORT has dropout, so a single number drawn by the evaluation would show.
    assert SHORT.lora_dropout > 0
    assert_same_run(evaluated, run(sharp_folder, SHORT, tmp_path))


def test_each_epoch_is_scored_once_and_told(sharp_folder: BaseModelFolder, tmp_path: Path, evaluated: TrainResult) -> None:
    hooks = RecordingHooks()
    result = run(sharp_folder, SHORT, tmp_path, hooks=hooks, held_out=HELD_OUT)
    assert hooks.evaluations == result.state.evaluations == evaluated.state.evaluations
    assert [(entry["epoch"], entry["step"], entry["rows"]) for entry in hooks.evaluations] == [(1, 3, 3), (2, 6, 3), (3, 9, 3)]
    assert all(
        {"eval_loss", "exact_match", "set_f1", "invalid_rate", "ordered_match", "micro_f1"} <= set(entry)
        for entry in hooks.evaluations
    )
    assert result.scores == hooks.evaluations[-1]


def test_a_last_epoch_that_is_not_whole_is_scored_too(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    result = run(sharp_folder, replace(SHORT, num_train_epochs=1.5), tmp_path, held_out=HELD_OUT)
    assert [entry["step"] for entry in result.state.evaluations] == [3, 5]


def test_at_most_so_many_rows_are_answered(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    result = run(sharp_folder, replace(SHORT, eval_max_rows=2), tmp_path, held_out=HELD_OUT)
    assert {entry["rows"] for entry in result.state.evaluations} == {2}


def test_without_held_out_rows_nothing_is_scored(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks()
    result = run(sharp_folder, SHORT, tmp_path, hooks=hooks)
    assert (result.state.evaluations, hooks.evaluations, result.scores) == ([], [], None)


def test_a_run_that_stops_anywhere_also_in_an_evaluation_resumes_bit_for_bit(
    sharp_folder: BaseModelFolder, tmp_path: Path, evaluated: TrainResult
) -> None:
    # Wishes are asked for after each step, each of 3 batches of loss and one of answers: 9 + 3 x 4 times.
    steps_and_scores = []
    for asked in count(1):
        hooks = RecordingHooks(wish_at=(asked, Wish.SAVE_AND_STOP))
        result = run(sharp_folder, SHORT, tmp_path / str(asked), hooks=hooks, held_out=HELD_OUT)
        if result.stopped is Wish.NONE:
            break
        folder, checksum, step = hooks.checkpoints[-1]
        assert verify_folder(folder) == checksum
        steps_and_scores.append((step, len(result.state.evaluations)))
        resumed = run(sharp_folder, SHORT, tmp_path / f"{asked}-resumed", resume_from=folder, held_out=HELD_OUT)
        assert_same_run(resumed, evaluated)
        assert resumed.state.evaluations == evaluated.state.evaluations
        assert resumed.scores == evaluated.scores
    assert len(steps_and_scores) == 9 + 3 * 4
    assert steps_and_scores[2:7] == [(3, 0)] * 5, "a wish in the third step or in the evaluation after it stops there"


def test_a_cancel_in_an_evaluation_leaves_no_new_checkpoint(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks(wish_at=(5, Wish.STOP))
    result = run(sharp_folder, SHORT, tmp_path, hooks=hooks, held_out=HELD_OUT)
    assert (result.stopped, result.state.step, hooks.checkpoints, hooks.evaluations) == (Wish.STOP, 3, [], [])


def test_a_checkpoint_at_an_epochs_end_holds_its_scores(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks()
    run(sharp_folder, SHORT, tmp_path, hooks=hooks, held_out=HELD_OUT)
    again = RecordingHooks()
    run(sharp_folder, SHORT, tmp_path / "resumed", hooks=again, resume_from=hooks.checkpoints[0][0], held_out=HELD_OUT)
    assert [entry["step"] for entry in again.evaluations] == [6, 9]
    assert [step for _, _, step in again.checkpoints] == [6]


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("exact_match", [0.2, 0.3, 0.3, 0.1]),
        ("set_f1", [0.2, 0.3, 0.3, 0.1]),
        ("eval_loss", [2.0, 1.0, 1.0, 1.1]),
        ("invalid_rate", [0.5, 0.0, 0.1, 0.0]),
    ],
)
def test_a_run_stops_after_so_many_epochs_without_a_better_one(
    sharp_folder: BaseModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: BestMetric, values: list[float]
) -> None:
    script(monkeypatch, metric, *values)
    hooks = RecordingHooks()
    spec = replace(SHORT, num_train_epochs=9, metric_for_best_model=metric, early_stopping_patience=2)
    result = run(sharp_folder, spec, tmp_path, hooks=hooks, held_out=HELD_OUT)
    assert (result.stopped, result.state.step) == (Wish.NONE, 4 * 3)
    assert hooks.notes[-1] == f"Stopped early: {metric} has not improved for 2 epoch(s)."
    assert result.scores is not None
    assert result.scores["step"] == 12, "the last adapter, because the best was not asked for"


def test_a_resumed_run_stops_early_where_an_uninterrupted_one_does(
    sharp_folder: BaseModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SHORT, num_train_epochs=9, early_stopping_patience=2)
    script(monkeypatch, "exact_match", 0.5, 0.4)
    # 2 steps into the third epoch, one epoch without improvement behind it.
    hooks = RecordingHooks(wish_at=(8, Wish.SAVE_AND_STOP))
    run(sharp_folder, spec, tmp_path / "first", hooks=hooks, held_out=HELD_OUT)
    script(monkeypatch, "exact_match", 0.5)
    result = run(sharp_folder, spec, tmp_path / "second", resume_from=hooks.checkpoints[-1][0], held_out=HELD_OUT)
    assert result.state.step == 9
    assert [entry["exact_match"] for entry in result.state.evaluations] == [0.5, 0.4, 0.5]


@pytest.mark.parametrize("stop_at", [None, 4, 7, 9])
def test_the_best_epochs_adapter_is_what_a_run_leaves_if_asked_also_after_a_pause(
    sharp_folder: BaseModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int | None
) -> None:
    spec = replace(SHORT, load_best_model_at_end=True)
    script(monkeypatch, "exact_match", 0.5, 0.9, 0.7)
    hooks = RecordingHooks()
    result = run(sharp_folder, spec, tmp_path / "whole", hooks=hooks, held_out=HELD_OUT)
    best = hooks.checkpoints[1][0]
    assert hooks.checkpoints[1][2] == 6
    if stop_at is not None:
        script(monkeypatch, "exact_match", 0.5, 0.9, 0.7)
        paused = RecordingHooks(wish_at=(stop_at, Wish.SAVE_AND_STOP))
        run(sharp_folder, spec, tmp_path / "first", hooks=paused, held_out=HELD_OUT)
        script(monkeypatch, "exact_match", *[0.5, 0.9, 0.7][(stop_at - 1) // 3 :])
        again = run(sharp_folder, spec, tmp_path / "second", resume_from=paused.checkpoints[-1][0], held_out=HELD_OUT)
        assert again.state.losses == result.state.losses
        result = again
    assert_equal_tensors(adapter_files(tmp_path / "adapter", result.network), load_file(best / ADAPTER_WEIGHTS))
    assert result.scores is not None
    assert (result.scores["step"], result.scores["exact_match"]) == (6, 0.9)
    assert result.state.step == 9


def test_a_run_that_is_not_asked_for_its_best_leaves_its_last(
    sharp_folder: BaseModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: TrainResult
) -> None:
    script(monkeypatch, "exact_match", 0.9, 0.5, 0.1)
    hooks = RecordingHooks()
    result = run(sharp_folder, SHORT, tmp_path, hooks=hooks, held_out=HELD_OUT)
    assert_equal_tensors(copy_adapter(result.network), copy_adapter(evaluated.network))
    assert not any((folder / "best.safetensors").exists() for folder, _, _ in hooks.checkpoints)


def test_a_run_resumed_from_its_very_last_checkpoint_only_hands_over(
    sharp_folder: BaseModelFolder, tmp_path: Path, evaluated: TrainResult
) -> None:
    hooks = RecordingHooks()
    result = run(sharp_folder, SHORT, tmp_path / "first", hooks=hooks, held_out=HELD_OUT, saves_last=True)
    assert [step for _, _, step in hooks.checkpoints] == [3, 6, 9]
    again = RecordingHooks()
    resumed = run(
        sharp_folder,
        SHORT,
        tmp_path / "second",
        hooks=again,
        resume_from=hooks.checkpoints[-1][0],
        held_out=HELD_OUT,
        saves_last=True,
    )
    assert_same_run(resumed, evaluated)
    assert (again.evaluations, again.checkpoints, again.progress) == ([], [], [])
    assert resumed.scores == result.scores


def test_a_run_that_stopped_early_does_not_train_on_when_it_is_resumed(
    sharp_folder: BaseModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SHORT, num_train_epochs=9, early_stopping_patience=1)
    script(monkeypatch, "exact_match", 0.5, 0.5)
    hooks = RecordingHooks()
    run(sharp_folder, spec, tmp_path / "first", hooks=hooks, held_out=HELD_OUT, saves_last=True)
    resumed = run(sharp_folder, spec, tmp_path / "second", resume_from=hooks.checkpoints[-1][0], held_out=HELD_OUT)
    assert (resumed.stopped, resumed.state.step) == (Wish.NONE, 6)


def test_time_spent_in_an_evaluation_is_not_training_time(
    sharp_folder: BaseModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_: Any, **__: Any) -> dict[str, float]:
        time.sleep(1.0)
        return {"exact_match": 0.0, "rows": 3}

    monkeypatch.setattr(epoch_evaluation, "evaluate", evaluate)
    began = time.monotonic()
    result = run(sharp_folder, SHORT, tmp_path, held_out=HELD_OUT)
    assert result.state.seconds < time.monotonic() - began - 2.9
