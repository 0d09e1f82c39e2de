"""A weight that was laid out gives the product that the weight gives."""

import pytest
import torch

from app.ml.engine.drafted import short_products


@pytest.mark.parametrize("rows", [1, 16, 17, 130])
def test_a_laid_out_weight_multiplies_like_the_weight(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 40, generator=generator)
    x = torch.randn(rows, 40, generator=generator)
    (laid_out,) = short_products.lay_out([weight])

    assert laid_out is not None
    torch.testing.assert_close(short_products.product(x, laid_out), x @ weight.T)


def test_a_slice_of_a_larger_tensor_is_laid_out_too() -> None:
    whole = torch.randn(64, 40, generator=torch.Generator().manual_seed(1))
    (laid_out,) = short_products.lay_out([whole[16:48]])

    assert laid_out is not None
    x = torch.ones(3, 40)
    torch.testing.assert_close(short_products.product(x, laid_out), x @ whole[16:48].T)


def test_bf16_weights_are_left_alone() -> None:
    assert short_products.lay_out([torch.ones(4, 4, dtype=torch.bfloat16)]) == [None]


def test_a_model_too_large_for_a_second_copy_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_products, "_MOST_BYTES", 100)

    assert short_products.lay_out([torch.ones(4, 4), torch.ones(4, 4)]) == [None, None]
