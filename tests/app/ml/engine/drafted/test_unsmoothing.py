"""What a model believes that label smoothing taught to say less."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.ml.engine.drafted.trie import unsmoothed

BELIEFS = st.lists(st.integers(0, 20), min_size=2, max_size=12).filter(any)


@given(weights=BELIEFS, closed_count=st.integers(0, 3), smoothing=st.sampled_from([0.01, 0.05, 0.2]))
def test_a_smoothed_belief_comes_back(weights: list[int], closed_count: int, smoothing: float) -> None:
    belief = torch.tensor([*weights, *[0] * closed_count], dtype=torch.float64)
    belief /= belief.sum()
    closed = torch.arange(len(belief)) >= len(weights)
    said = ((1 - smoothing) * belief + smoothing / len(weights)).masked_fill(closed, 0.0).log()
    found = torch.softmax(unsmoothed(said[None], closed[None], torch.tensor([smoothing], dtype=torch.float64)), dim=1)[0]
    # What is believed impossible keeps a hundredth of its share of the smoothing.
    assert (found - belief).abs().max() < 0.011 * smoothing
    assert not found[closed].any()


@given(weights=BELIEFS, smoothing=st.sampled_from([0.05, 0.5]))
def test_the_order_stays(weights: list[int], smoothing: float) -> None:
    said = torch.log_softmax(torch.tensor(weights, dtype=torch.float64) / 4, dim=0)[None]
    found = unsmoothed(said, torch.zeros_like(said, dtype=torch.bool), torch.tensor([smoothing], dtype=torch.float64))[0]
    assert torch.isfinite(found).all()
    ranked = found[torch.tensor(weights).argsort(stable=True)]
    assert (ranked.diff() >= 0).all()


def test_two_sure_tokens_are_as_sure_as_before_training_smoothed_them() -> None:
    said = torch.tensor([[0.975, 0.025]]).log()
    found = torch.softmax(unsmoothed(said, torch.zeros(1, 2, dtype=torch.bool), torch.tensor([0.05])), dim=1)
    assert found[0, 0] == pytest.approx(1.0, abs=1e-3)
