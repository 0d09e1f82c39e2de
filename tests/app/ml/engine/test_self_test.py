"""A device that computes wrongly is refused. Here the CPU plays the device, sound or broken."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from app.ml.engine.self_test import check_device
from app.ml.errors import DeviceComputesWrongly, OutOfDeviceMemory
from tests.app.ml.engine.training_help import CPU


class Broken(TorchFunctionMode):
    """Changes what one of torch's functions returns."""

    def __init__(self, function: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.change = function, change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return self.change(result) if func is self.function else result


class ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 1.3 * gradient


def refusal(function: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> str:
    with pytest.raises(DeviceComputesWrongly) as caught:
        check_device(CPU, around_device_runs=lambda: Broken(function, change))
    return caught.value.message


def raising(error: Exception) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(_: torch.Tensor) -> torch.Tensor:
        raise error

    return change


linear = torch.nn.functional.linear


def test_a_sound_device_passes_in_both_arithmetics() -> None:
    errors = check_device(CPU)

    assert [name for name in errors if name.startswith("fp32")] == ["fp32 loss", "fp32 gradients", "fp32 weight updates"]
    assert all(error == 0 for name, error in errors.items() if name.startswith("fp32"))
    # A third of what is refused, at most: another sound device may round otherwise.
    assert 0 < errors["bf16 gradients"] < 0.03
    assert errors["bf16 loss"] < 0.003


def test_rounding_as_coarse_as_tf32_passes() -> None:
    def coarse(value: torch.Tensor) -> torch.Tensor:
        return value * (1 + 2**-11 * torch.sin(torch.arange(value.numel())).reshape(value.shape))

    check_device(CPU, around_device_runs=lambda: Broken(linear, coarse))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value * 1.1,
        lambda value: torch.zeros_like(value) * value,
        lambda value: value.flip(-1),
        lambda value: value * float("nan"),
    ],
    ids=["scaled", "zero", "reversed", "nan"],
)
def test_a_wrong_product_is_refused(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert "computes wrongly: the loss of a tiny training step in fp32" in refusal(linear, change)


def test_a_wrong_attention_is_refused() -> None:
    assert "computes wrongly" in refusal(torch.nn.functional.scaled_dot_product_attention, lambda value: value.roll(1, dims=2))


def test_a_wrong_gradient_is_refused_though_the_loss_is_right() -> None:
    assert "the gradients of" in refusal(linear, ScaledGradient.apply)


def test_arithmetic_that_is_wrong_in_bf16_alone_is_refused() -> None:
    message = refusal(linear, lambda value: value * 1.5 if value.dtype == torch.bfloat16 else value)

    assert "in bf16" in message


def test_a_refusal_names_the_device_the_figures_and_what_to_do() -> None:
    message = refusal(linear, lambda value: value * 1.5)

    for part in ("Device cpu", "of their norm", "at most", torch.__version__, "HSA_OVERRIDE_GFX_VERSION", "AOTRITON", "driver"):
        assert part in message


def test_a_device_that_its_library_has_no_code_for_is_refused() -> None:
    error = RuntimeError("HIP error: invalid device function\nCompile with TORCH_USE_HIP_DSA")

    message = refusal(linear, raising(error))

    assert "has no code" in message and "invalid device function" in message and "USE_HIP_DSA" not in message


def test_a_device_without_memory_is_not_called_wrong() -> None:
    with pytest.raises(OutOfDeviceMemory):
        check_device(CPU, around_device_runs=lambda: Broken(linear, raising(torch.OutOfMemoryError("out of memory"))))


def test_another_fault_of_the_device_may_be_tried_again() -> None:
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        check_device(CPU, around_device_runs=lambda: Broken(linear, raising(RuntimeError("unspecified launch failure"))))


def test_the_test_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()

    check_device(CPU)

    assert torch.equal(torch.get_rng_state(), before)
