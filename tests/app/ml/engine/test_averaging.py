"""The average of the weights against one made by hand of a checkpoint after each step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.ml.engine.lora import ADAPTER_WEIGHTS, save_adapter
from app.ml.engine.training import TrainResult
from app.ml.model_store import BaseModelFolder
from app.ml.spec import FinetuneSpec
from tests.app.ml.engine.test_training import SHORT, assert_same_run, resumed
from tests.app.ml.engine.training_help import EXAMPLES, RecordingHooks, run

Weights = dict[str, torch.Tensor]
EMA = replace(SHORT, ema_decay=0.6)
# 9 steps, 3 an epoch.
LAST_TWO = replace(SHORT, average_last_epochs=2)


@pytest.fixture(scope="module")
def course(sharp_folder: BaseModelFolder, tmp_path_factory: pytest.TempPathFactory) -> list[Weights]:
    """The weights after each step of a run without an average."""
    hooks = RecordingHooks()
    run(sharp_folder, replace(SHORT, save_steps=1), tmp_path_factory.mktemp("course"), hooks=hooks, saves_last=True)
    assert [step for _, _, step in hooks.checkpoints] == list(range(1, 10))
    return [load_file(folder / ADAPTER_WEIGHTS) for folder, _, _ in hooks.checkpoints]


def weights_of(result: TrainResult, place: Path) -> Weights:
    place.mkdir()
    save_adapter(result.network, place)
    return load_file(place / ADAPTER_WEIGHTS)


def mean(weights: Sequence[Weights]) -> Weights:
    return {name: torch.stack([each[name] for each in weights]).mean(0) for name in weights[0]}


def assert_close(ours: Weights, expected: Weights) -> None:
    assert ours.keys() == expected.keys() and ours
    for name, weight in ours.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-7)


def test_the_mean_of_the_last_epochs_is_that_of_their_last_steps(
    sharp_folder: BaseModelFolder, tmp_path: Path, course: list[Weights]
) -> None:
    result = run(sharp_folder, LAST_TWO, tmp_path / "run")
    assert_close(weights_of(result, tmp_path / "adapter"), mean([course[5], course[8]]))


def test_an_epoch_that_ends_early_counts_as_one(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    spec = replace(LAST_TWO, num_train_epochs=2.5, lr_scheduler_type="constant", warmup_ratio=0.0)
    hooks = RecordingHooks()
    plain = replace(spec, average_last_epochs=1, save_steps=1)
    run(sharp_folder, plain, tmp_path / "plain", hooks=hooks, saves_last=True)
    course = [load_file(folder / ADAPTER_WEIGHTS) for folder, _, _ in hooks.checkpoints]
    assert_close(weights_of(run(sharp_folder, spec, tmp_path / "run"), tmp_path / "adapter"), mean([course[5], course[-1]]))


def test_a_moving_average_keeps_its_share_of_each_step(
    sharp_folder: BaseModelFolder, tmp_path: Path, course: list[Weights]
) -> None:
    hooks = RecordingHooks()
    result = run(sharp_folder, replace(EMA, save_steps=1), tmp_path / "run", hooks=hooks)
    averages = [load_file(folder / ADAPTER_WEIGHTS) for folder, _, _ in hooks.checkpoints]
    averages.append(weights_of(result, tmp_path / "adapter"))
    for step in range(2, 10):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {name: decay * averages[step - 2][name] + (1 - decay) * weight for name, weight in course[step - 1].items()}
        assert_close(averages[step - 1], expected)


@pytest.mark.parametrize("spec", [EMA, LAST_TWO], ids=["moving", "last"])
def test_an_average_changes_nothing_of_the_training_itself(
    sharp_folder: BaseModelFolder, tmp_path: Path, spec: FinetuneSpec
) -> None:
    plain = run(sharp_folder, SHORT, tmp_path / "plain")
    assert run(sharp_folder, spec, tmp_path / "run").state.losses == plain.state.losses


@pytest.mark.parametrize("stops", [[1], [4], [6, 7], [8]], ids=str)
@pytest.mark.parametrize("spec", [EMA, LAST_TWO, replace(EMA, use_dora=False)], ids=["moving", "last", "lora"])
def test_a_run_with_an_average_resumes_bit_for_bit(
    sharp_folder: BaseModelFolder, tmp_path: Path, spec: FinetuneSpec, stops: list[int]
) -> None:
    assert_same_run(resumed(sharp_folder, tmp_path, stops, spec=spec), run(sharp_folder, spec, tmp_path / "whole"))


def test_a_checkpoint_holds_the_average_as_its_adapter(
    sharp_folder: BaseModelFolder, tmp_path: Path, course: list[Weights]
) -> None:
    hooks = RecordingHooks()
    result = run(sharp_folder, LAST_TWO, tmp_path / "run", hooks=hooks, saves_last=True)
    before, first, last = [load_file(folder / ADAPTER_WEIGHTS) for folder, _, _ in hooks.checkpoints]
    assert_close(before, course[2])
    assert_close(first, course[5])
    assert_close(last, weights_of(result, tmp_path / "adapter"))


def test_what_is_scored_is_the_average(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks()
    averaged = run(sharp_folder, LAST_TWO, tmp_path / "run", hooks=hooks, held_out=EXAMPLES)
    plain = run(sharp_folder, SHORT, tmp_path / "plain", held_out=EXAMPLES)
    losses = [[one["eval_loss"] for one in result.state.evaluations] for result in (averaged, plain)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2] != losses[1][2]


def test_the_best_epoch_of_a_run_with_an_average_is_the_average_as_it_was_then(
    sharp_folder: BaseModelFolder, tmp_path: Path
) -> None:
    spec = replace(EMA, load_best_model_at_end=True, metric_for_best_model="eval_loss", learning_rate=5e-2)
    hooks = RecordingHooks()
    result = run(sharp_folder, spec, tmp_path / "run", hooks=hooks, held_out=EXAMPLES, saves_last=True)
    assert result.scores is not None
    step = result.scores["step"]
    best = next(folder for folder, _, at in hooks.checkpoints if at == step)
    assert_close(weights_of(result, tmp_path / "adapter"), load_file(best / ADAPTER_WEIGHTS))
