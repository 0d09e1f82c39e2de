"""What is told apart of AMD cards, by the name that a ROCm torch gives them; no such card is at hand."""

from types import SimpleNamespace

import pytest
import torch

from app.ml.engine.device import choose_dtype, graphs_run, has_bf16, triton_runs

CARD = torch.device("cuda", 0)


def make_rocm(monkeypatch: pytest.MonkeyPatch, generation: str) -> None:
    """Lets torch speak of a card of this generation."""
    monkeypatch.setattr(torch.version, "hip", "7.2")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(gcnArchName=generation))


@pytest.mark.parametrize("generation", ["gfx900", "gfx906:sramecc+:xnack-"])
def test_vega_computes_in_fp32_without_triton(monkeypatch: pytest.MonkeyPatch, generation: str) -> None:
    make_rocm(monkeypatch, generation)
    assert not has_bf16(CARD)
    assert choose_dtype(CARD, "auto") == torch.float32
    assert not triton_runs(CARD)


@pytest.mark.parametrize("generation", ["gfx90a:sramecc+:xnack-", "gfx942", "gfx1101", "gfx1201"])
def test_later_cards_compute_in_bf16(monkeypatch: pytest.MonkeyPatch, generation: str) -> None:
    make_rocm(monkeypatch, generation)
    assert choose_dtype(CARD, "auto") == torch.bfloat16


def test_a_job_may_still_ask_for_bf16_on_an_old_card(monkeypatch: pytest.MonkeyPatch) -> None:
    make_rocm(monkeypatch, "gfx906")
    assert choose_dtype(CARD, "bf16") == torch.bfloat16


def test_graphs_are_captured_on_rocm_only_when_the_operator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    make_rocm(monkeypatch, "gfx942")
    assert not graphs_run(CARD)
    monkeypatch.setenv("DIANDA_HIP_GRAPHS", "1")
    assert graphs_run(CARD)
    monkeypatch.setenv("DIANDA_EAGER", "1")
    assert not graphs_run(CARD)
