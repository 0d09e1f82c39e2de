"""The loops say what plain torch says, to fp32's rounding."""

import pytest
import torch

from app.ml.engine.drafted import host_norms
from app.ml.engine.drafted.eager import norm_rotate
from app.ml.engine.packed import plain

EPS = 1e-6


@pytest.mark.parametrize(("rows", "size"), [(1, 2), (7, 96), (33, 640)])
@pytest.mark.parametrize("has_delta", [True, False])
def test_the_norm_of_a_sum_is_the_plain_one(rows: int, size: int, has_delta: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, delta = torch.randn(2, rows, size, generator=generator)
    gain = torch.rand(size, generator=generator)
    given = delta if has_delta else None

    total, normed = host_norms.add_norm(x, given, gain, EPS)

    plain_total, plain_normed, _ = plain.add_norm(x, given, gain, EPS, torch.float32)
    assert torch.equal(total, plain_total)
    torch.testing.assert_close(normed, plain_normed)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_heads_are_normed_and_rotated_as_in_plain_torch(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    heads = torch.randn(rows, 6, 32, generator=generator)
    gain = torch.rand(5, 32, generator=generator)
    turn = torch.rand(rows, 16, generator=generator) * 6
    angles = torch.cat([turn.cos(), turn.sin()], dim=1)

    turned = host_norms.norm_rotate(heads, gain, EPS, angles)

    torch.testing.assert_close(turned, norm_rotate(heads[:, :5], gain, EPS, angles))


def test_a_row_of_zeros_stays_zero() -> None:
    _, normed = host_norms.add_norm(torch.zeros(2, 8), None, torch.ones(8), EPS)

    assert torch.equal(normed, torch.zeros(2, 8))


def test_only_fp32_on_a_cpu_is_served() -> None:
    assert host_norms.serves(torch.device("cpu"), torch.float32)
    assert not host_norms.serves(torch.device("cpu"), torch.bfloat16)
    assert not host_norms.serves(torch.device("cuda"), torch.float32)
