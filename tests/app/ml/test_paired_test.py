import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.paired_test import compare_paired

SCORES = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)
F1S = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


def test_ten_rows_lost_and_none_won_is_one_in_1024() -> None:
    compared = compare_paired([1.0] * 10 + [1.0] * 30, [0.0] * 10 + [1.0] * 30)

    assert (compared.rows, compared.worse_rows, compared.better_rows) == (40, 10, 0)
    assert compared.p_worse == 2**-10


def test_equal_models_cannot_be_told_apart() -> None:
    compared = compare_paired([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])

    assert (compared.difference, compared.p_worse) == (0.0, 1.0)
    assert compared.interval[0] < 0 < compared.interval[1]


def test_thousands_of_differing_rows_are_still_exact() -> None:
    compared = compare_paired([1.0] * 2000 + [0.0] * 2000, [0.0] * 2000 + [1.0] * 2000)

    # P(X <= 2000) of 4000 throws: a half and half of the middle's own weight.
    assert compared.p_worse == pytest.approx(0.5 + math.comb(4000, 2000) / 2**4001)


def test_a_fall_of_f1_spread_over_rows_is_found() -> None:
    baseline = [0.9] * 30
    candidate = [0.9 - 0.01 * (row % 7 + 1) for row in range(30)]

    assert compare_paired(baseline, candidate).p_worse < 0.001


@pytest.mark.parametrize(("baseline", "candidate"), [([], []), ([1.0], [1.0, 0.0])])
def test_rows_that_do_not_pair_are_refused(baseline: list[float], candidate: list[float]) -> None:
    with pytest.raises(ValueError, match="same rows"):
        compare_paired(baseline, candidate)


@given(SCORES)
def test_the_p_value_is_the_binomial_tail_of_mcnemar(pairs: list[tuple[float, float]]) -> None:
    compared = compare_paired(*zip(*pairs, strict=True))

    count = compared.better_rows + compared.worse_rows
    tail = sum(math.comb(count, hits) for hits in range(compared.better_rows + 1)) / 2**count
    assert compared.p_worse == pytest.approx(tail)


@given(F1S)
def test_the_numbers_fit_together_and_come_out_the_same_again(pairs: list[tuple[float, float]]) -> None:
    baseline, candidate = zip(*pairs, strict=True)
    compared = compare_paired(baseline, candidate)

    assert compared == compare_paired(baseline, candidate)
    assert compared.difference == pytest.approx(compared.candidate - compared.baseline, abs=1e-9)
    assert 0 < compared.p_worse <= 1
    assert -1 <= compared.interval[0] <= compared.interval[1] <= 1
    assert compared.better_rows + compared.worse_rows <= compared.rows
