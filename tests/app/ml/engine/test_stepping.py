"""One optimiser step: however it is cut, whatever runs out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.ml.engine.batching import TokenRow
from app.ml.engine.device import limit_memory
from app.ml.engine.flat_parameters import optimiser_groups
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import attach_adapter, flat_groups
from app.ml.engine.packed.packs import token_count
from app.ml.engine.stepping import PackedSource, PaddedSource, StepRunner, make_source
from app.ml.engine.token_budget import plan_token_budget
from app.ml.engine.training import TrainPlan, Wish, train
from app.ml.errors import OutOfDeviceMemory, ZeroGradient
from tests.app.ml.engine.training_help import CPU, FAST, RecordingHooks, load, token_rows

SPEC = replace(FAST, use_dora=True, lora_dropout=0.0)


class SmallDevice:
    """A source whose device holds packs of so many tokens and no more."""

    def __init__(self, inner: Any, most_tokens: int) -> None:
        self._inner, self._most = inner, most_tokens
        self.objective = inner.objective
        self.cleared = 0

    def prepare(self, packs: Sequence[Sequence[TokenRow]]) -> Sequence[Any]:
        return list(zip(packs, self._inner.prepare(packs), strict=True))

    def refresh(self) -> None:
        self._inner.refresh()

    def add_gradients(self, prepared: Any, weight: float) -> torch.Tensor:
        rows, inner = prepared
        if sum(map(token_count, rows)) > self._most:
            raise torch.OutOfMemoryError("the small device is full")
        loss: torch.Tensor = self._inner.add_gradients(inner, weight)
        return loss

    def clear(self) -> None:
        self.cleared += 1


def runner_of(base: LoadedModel, *, budget: int, most_tokens: int | None = None, padded: bool = False) -> Any:
    network = attach_adapter(base.network, SPEC)
    network.train()
    groups = flat_groups(network, SPEC)
    optimiser = torch.optim.AdamW(optimiser_groups(groups, weight_decay=0.0), lr=1e-3, fused=True)
    source: Any = PaddedSource(base, network) if padded else make_source(base, network, SPEC)
    if most_tokens is not None:
        source = SmallDevice(source, most_tokens)
    rows = token_rows(base)
    return StepRunner(source, optimiser, groups, lambda _: rows, token_budget=budget, max_grad_norm=1.0, device=CPU)


def course(runner: Any) -> list[float]:
    return [runner.run(step).loss for step in range(5)]


@pytest.mark.parametrize("budget", [1, 40, 80])
def test_a_step_does_not_depend_on_how_it_is_cut(sharp_folder: Any, budget: int) -> None:
    torch.manual_seed(0)
    whole = course(runner_of(load(sharp_folder), budget=10_000))
    torch.manual_seed(0)
    assert course(runner_of(load(sharp_folder), budget=budget)) == pytest.approx(whole, rel=1e-4)


def test_packed_and_padded_steps_are_the_same(sharp_folder: Any) -> None:
    torch.manual_seed(0)
    packed = course(runner_of(load(sharp_folder), budget=10_000))
    torch.manual_seed(0)
    assert course(runner_of(load(sharp_folder), budget=10_000, padded=True)) == pytest.approx(packed, rel=1e-3)


def test_a_full_device_gets_smaller_packs_and_the_same_step(sharp_folder: Any) -> None:
    torch.manual_seed(0)
    whole = course(runner_of(load(sharp_folder), budget=10_000))
    torch.manual_seed(0)
    runner = runner_of(load(sharp_folder), budget=10_000, most_tokens=70)
    assert course(runner) == pytest.approx(whole, rel=1e-4)
    assert runner.token_budget <= 160


def test_a_device_too_small_for_one_row_says_so(base: LoadedModel) -> None:
    with pytest.raises(OutOfDeviceMemory, match="no memory for one row") as caught:
        runner_of(base, budget=10_000, most_tokens=10).run(0)
    assert caught.value.param == "cutoff_len"


def test_a_gradient_of_exactly_zero_stops_the_run(base: LoadedModel) -> None:
    runner = runner_of(base, budget=10_000)
    with torch.no_grad():
        base.network.get_output_embeddings().weight.zero_()
    with pytest.raises(ZeroGradient):
        runner.run(0)


def test_the_plan_of_a_small_card_is_kept_by_its_checkpoint(sharp_folder: Any, tmp_path: Path) -> None:
    base = load(sharp_folder)
    rows = token_rows(base)
    plan = TrainPlan(SPEC, rows, 1, tmp_path)
    hooks = RecordingHooks(wish_at=(2, Wish.SAVE_AND_STOP))
    limit_memory(CPU, 0.001)
    try:
        first = train(base, plan, hooks)
    finally:
        limit_memory(CPU, None)
    assert first.state.token_budget == max(map(token_count, rows))
    again = train(load(sharp_folder), replace(plan, resume_from=hooks.checkpoints[-1][0]), RecordingHooks())
    assert again.state.token_budget == first.state.token_budget


def test_a_roomy_device_takes_the_largest_useful_pack(base: LoadedModel) -> None:
    rows = token_rows(base)
    assert plan_token_budget(base, SPEC, rows, is_packed=True) == 4096


def test_a_known_network_is_packed(base: LoadedModel) -> None:
    assert isinstance(make_source(base, attach_adapter(base.network, SPEC), SPEC), PackedSource)
