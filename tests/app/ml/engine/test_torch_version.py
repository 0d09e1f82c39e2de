import pytest
import torch

from app.ml.engine.device import is_eager, pick_device
from app.ml.engine.torch_version import is_below_floor
from app.ml.errors import TorchTooOld


@pytest.mark.parametrize(
    ("version", "is_old"),
    [("2.9.1+rocm6.4", True), ("2.10.0", True), ("2.11.0+rocm7.2", False), ("2.11.0a0+git", False), ("3.0.0", False)],
)
def test_versions_are_compared_as_numbers(version: str, is_old: bool) -> None:
    assert is_below_floor(version) is is_old


def test_an_old_torch_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+rocm6.4")
    with pytest.raises(TorchTooOld, match="DIANDA_LEGACY_TORCH=1"):
        pick_device()


def test_a_waived_floor_makes_everything_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+rocm6.4")
    monkeypatch.setenv("DIANDA_LEGACY_TORCH", "1")
    assert pick_device() is not None
    assert is_eager()


def test_a_newer_torch_is_not_eager_by_itself() -> None:
    assert not is_eager()
