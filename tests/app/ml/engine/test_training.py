import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.durable import verify_folder
from app.ml.engine.decoding import decode_constrained
from app.ml.engine.training import TrainPlan, TrainResult, Wish, learning_rate_factor, train
from app.ml.errors import InvalidSpec, NonFiniteLoss
from app.ml.model_store import BaseModelFolder
from app.ml.spec import FinetuneSpec, Scheduler
from tests.app.ml.engine.training_help import (
    CPU,
    EXAMPLES,
    FAST,
    RecordingHooks,
    adapter_tensors,
    grammar_for,
    load,
    run,
    token_rows,
)
from tests.fixtures.tiny import PAD

# 5 rows, 2 a step: 3 steps an epoch, 9 in all; everything that keeps a state between steps is on.
SHORT = FinetuneSpec(
    lora_rank=4,
    lora_alpha=8,
    lora_dropout=0.1,
    lora_target=("q_proj", "v_proj", "down_proj"),
    use_rslora=True,
    use_dora=True,
    loraplus_lr_ratio=4.0,
    learning_rate=5e-3,
    warmup_ratio=0.2,
    weight_decay=0.01,
    num_train_epochs=3.0,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=2,
)


def resumed(folder: BaseModelFolder, place: Path, stops: Sequence[int], *, spec: FinetuneSpec = SHORT) -> TrainResult:
    """Stops a run at each of the steps and goes on in a fresh network."""
    newest, done = None, 0
    for stop in stops:
        hooks = RecordingHooks(wish_at=(stop - done, Wish.SAVE_AND_STOP))
        result = run(folder, spec, place / str(stop), hooks=hooks, resume_from=newest)
        assert (result.stopped, result.state.step) == (Wish.SAVE_AND_STOP, stop)
        (newest, _, done) = hooks.checkpoints[-1]
    return run(folder, spec, place / "last", resume_from=newest)


def assert_same_run(one: TrainResult, other: TrainResult) -> None:
    assert one.state.losses == other.state.losses
    assert one.state.trained_tokens == other.state.trained_tokens
    tensors = adapter_tensors(other.network)
    assert tensors
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in adapter_tensors(one.network).items())


@pytest.fixture(scope="module")
def uninterrupted(sharp_folder: BaseModelFolder, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(sharp_folder, SHORT, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stops", [[1], [3], [4], [8], [2, 3, 7]], ids=str)
def test_a_run_that_was_stopped_and_resumed_repeats_an_uninterrupted_one_bit_for_bit(
    sharp_folder: BaseModelFolder, tmp_path: Path, uninterrupted: TrainResult, stops: list[int]
) -> None:
    assert_same_run(resumed(sharp_folder, tmp_path, stops), uninterrupted)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_a_run_with_another_schedule_resumes_bit_for_bit_too(
    sharp_folder: BaseModelFolder, tmp_path: Path, schedule: Scheduler
) -> None:
    spec = replace(
        SHORT, lr_scheduler_type=schedule, use_dora=False, lora_target=("q_proj", "embed_tokens"), num_train_epochs=1.5
    )
    assert_same_run(resumed(sharp_folder, tmp_path, [2], spec=spec), run(sharp_folder, spec, tmp_path / "whole"))


def test_a_run_resumes_from_any_of_its_periodic_checkpoints(
    sharp_folder: BaseModelFolder, tmp_path: Path, uninterrupted: TrainResult
) -> None:
    hooks, spec = RecordingHooks(), replace(SHORT, save_steps=2)
    assert_same_run(run(sharp_folder, spec, tmp_path, hooks=hooks), uninterrupted)
    assert [step for _, _, step in hooks.checkpoints] == [2, 4, 6, 8]
    for folder, checksum, _ in hooks.checkpoints[::3]:
        assert verify_folder(folder) == checksum
        assert_same_run(run(sharp_folder, spec, tmp_path / "resumed", resume_from=folder), uninterrupted)


def test_a_run_checkpoints_after_each_epoch_but_the_last(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks()
    run(sharp_folder, SHORT, tmp_path, hooks=hooks)
    assert [step for _, _, step in hooks.checkpoints] == [3, 6]


def test_a_seed_repeats_a_run(sharp_folder: BaseModelFolder, tmp_path: Path, uninterrupted: TrainResult) -> None:
    torch.rand(3)
    assert_same_run(run(sharp_folder, SHORT, tmp_path), uninterrupted)


def test_another_seed_gives_another_run(sharp_folder: BaseModelFolder, tmp_path: Path, uninterrupted: TrainResult) -> None:
    other = run(sharp_folder, SHORT, tmp_path, seed=2)
    assert [entry["loss"] for entry in other.state.losses] != [entry["loss"] for entry in uninterrupted.state.losses]


def test_stopping_without_saving_leaves_no_checkpoint(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks(wish_at=(3, Wish.STOP))
    result = run(sharp_folder, SHORT, tmp_path / "run", hooks=hooks)
    assert (result.stopped, result.state.step, hooks.checkpoints) == (Wish.STOP, 3, [])
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_holds_no_pickle(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks(wish_at=(1, Wish.SAVE_AND_STOP))
    run(sharp_folder, SHORT, tmp_path, hooks=hooks)
    assert {path.suffix for path in hooks.checkpoints[0][0].iterdir()} == {".json", ".safetensors"}


def test_a_run_tells_its_size_its_notes_and_its_first_and_last_step(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks()
    result = run(sharp_folder, SHORT, tmp_path, hooks=hooks)
    assert hooks.started == [{"parameters": result.trainable_parameters, "steps": 9, "resumed_from": 0}]
    assert len(hooks.notes) == 1
    steps = [progress.step for progress in hooks.progress]
    assert (steps[0], steps[-1]) == (1, 9)
    assert all(
        math.isfinite(value) for value in json.loads(json.dumps(hooks.progress[-1].to_mapping())).values() if value is not None
    )
    assert hooks.progress[-1].seconds_remaining == 0


def test_a_resumed_run_says_from_where(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    first, second = RecordingHooks(wish_at=(4, Wish.SAVE_AND_STOP)), RecordingHooks()
    run(sharp_folder, SHORT, tmp_path / "a", hooks=first)
    run(sharp_folder, SHORT, tmp_path / "b", hooks=second, resume_from=first.checkpoints[-1][0])
    assert second.started[0]["resumed_from"] == 4
    assert second.progress[0].step == 5


def test_training_leaves_the_base_models_weights_alone(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    trained = run(sharp_folder, SHORT, tmp_path).network.get_base_model().state_dict()
    for name, tensor in load(sharp_folder).network.state_dict().items():
        prefix, _, leaf = name.rpartition(".")
        assert torch.equal(trained.get(name, trained.get(f"{prefix}.base_layer.{leaf}")), tensor)


def test_the_first_loss_is_that_of_the_base_model(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    # B starts at zero, so the first step sees the base model; transformers' own loss is the reference.
    result = run(sharp_folder, replace(FAST, num_train_epochs=1), tmp_path)
    base = load(sharp_folder)
    total = tokens = 0.0
    for row in token_rows(base):
        labels = torch.tensor([[-100] * len(row.prompt) + list(row.answer)])
        loss = base.network(input_ids=torch.tensor([[*row.prompt, *row.answer]]), labels=labels).loss
        total, tokens = total + float(loss) * len(row.answer), tokens + len(row.answer)
    assert result.state.losses[0]["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert result.state.trained_tokens == tokens


def test_a_handful_of_rows_is_learnt_by_heart(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    result = run(sharp_folder, FAST, tmp_path)
    assert result.state.losses[0]["loss"] > 2.0
    assert result.state.losses[-1]["loss"] < 0.05
    base = load(sharp_folder)
    prompts = [row.prompt for row in token_rows(base)]
    answers = decode_constrained(result.network, prompts, grammar_for(base), pad_id=PAD, device=CPU)
    assert [answer.codes for (answer,) in answers] == [example.codes for example in EXAMPLES]


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run(sharp_folder: BaseModelFolder, tmp_path: Path, poison: float) -> None:
    base = load(sharp_folder)
    with torch.no_grad():
        base.network.model.layers[1].mlp.down_proj.weight[0, 0] = poison
    hooks = RecordingHooks()
    with pytest.raises(NonFiniteLoss) as caught:
        train(base, TrainPlan(SHORT, token_rows(base), 1, tmp_path), hooks)
    assert caught.value.param == "learning_rate"
    assert (hooks.progress, hooks.checkpoints) == ([], [])


def test_an_unknown_target_module_ends_the_run_before_it_starts(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    hooks = RecordingHooks()
    with pytest.raises(InvalidSpec, match="no module lm_haed"):
        run(sharp_folder, replace(SHORT, lora_target=("lm_haed",)), tmp_path, hooks=hooks)
    assert hooks.started == []


def test_gradient_clipping_bounds_the_step(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    spec = replace(FAST, num_train_epochs=1, max_grad_norm=0.01)
    result = run(sharp_folder, spec, tmp_path)
    gradients = [p.grad for p in result.network.parameters() if p.grad is not None]
    assert result.state.losses[0]["grad_norm"] > 0.01
    assert float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))) == pytest.approx(0.01, rel=1e-3)


def test_with_lora_plus_b_takes_the_larger_first_step(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    # Adam's first step has the size of the learning rate, and B starts at zero.
    spec = replace(FAST, num_train_epochs=1, warmup_ratio=0.0, learning_rate=1e-3, loraplus_lr_ratio=4.0)
    tensors = adapter_tensors(run(sharp_folder, spec, tmp_path).network)
    largest = max(float(tensor.abs().max()) for name, tensor in tensors.items() if "lora_B" in name)
    assert largest == pytest.approx(4e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("epochs", "rows", "steps"), [(1.0, 16, 1), (1.0, 17, 2), (3.0, 17, 6), (0.5, 64, 2), (0.01, 1, 1), (2.5, 33, 8)]
)
def test_a_run_has_as_many_steps_as_counted_by_hand(epochs: float, rows: int, steps: int) -> None:
    spec = FinetuneSpec(num_train_epochs=epochs, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert spec.total_steps(rows) == steps


def factors(schedule: Scheduler, warmup: float, steps: int) -> list[float]:
    spec = FinetuneSpec(lr_scheduler_type=schedule, warmup_ratio=warmup)
    return [learning_rate_factor(spec, step, steps) for step in range(steps)]


# By the formulas: (step + 1) / warm-up steps, then 1 - done, (1 + cos(pi done)) / 2 or 1 with done = 0, 1/4, 2/4, 3/4.
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_a_schedule_is_the_one_of_its_formula(schedule: Scheduler, expected: list[float]) -> None:
    assert factors(schedule, 0.3, 6) == pytest.approx(expected)


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.1 + 0.9 * 0.25), ("constant", 1.0)])
def test_a_schedule_ends_at_its_floor(schedule: Scheduler, last: float) -> None:
    spec = FinetuneSpec(lr_scheduler_type=schedule, warmup_ratio=0.3, min_lr_rate=0.1)
    assert learning_rate_factor(spec, 5, 6) == pytest.approx(last)
    assert learning_rate_factor(spec, 1, 6) == 1.0
    assert learning_rate_factor(replace(spec, lr_scheduler_type="cosine"), 999, 1000) == pytest.approx(0.1, abs=1e-5)


@given(st.sampled_from(["cosine", "linear", "constant"]), st.floats(0, 1), st.integers(1, 60))
def test_a_learning_rate_rises_in_warm_up_then_never_again(schedule: Scheduler, warmup: float, steps: int) -> None:
    values = factors(schedule, warmup, steps)
    peak = values.index(max(values))
    assert all(0 < value <= 1 for value in values)
    assert max(values) == 1.0
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
