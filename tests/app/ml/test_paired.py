import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from app.ml.paired import compare_paired, holm_adjusted, mcnemar_exact, verdict_of


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_exact_p_is_that_of_a_fair_coin(first: int, second: int) -> None:
    expected = 1.0 if first + second == 0 else binomtest(first, first + second).pvalue
    assert mcnemar_exact(first, second) == pytest.approx(expected)


def test_only_rows_that_differ_count() -> None:
    both, none = [(True, 1.0)] * 50, [(False, 0.0)] * 40
    found = compare_paired(both + none + [(False, 0.5)] * 9 + [(True, 1.0)], both + none + [(True, 1.0)] * 9 + [(False, 0.5)])
    assert (found.rows, found.only_baseline_right, found.only_this_right) == (100, 1, 9)
    assert found.exact_match_difference == pytest.approx(0.08)
    assert found.exact_match_p == pytest.approx(binomtest(1, 10).pvalue)
    assert found.set_f1_difference == pytest.approx(0.04)
    assert found.set_f1_interval[0] < 0.04 < found.set_f1_interval[1]


def test_the_same_answers_are_not_distinguishable() -> None:
    rows = [(True, 1.0), (False, 0.5)] * 10
    found = compare_paired(rows, rows)
    assert (found.exact_match_p, found.set_f1_interval) == (1.0, (0.0, 0.0))
    assert verdict_of(found, found.exact_match_p) == "not distinguishable"


@pytest.mark.parametrize(("before", "now", "verdict"), [(False, True, "better"), (True, False, "worse")])
def test_a_difference_beyond_chance_has_a_direction(before: bool, now: bool, verdict: str) -> None:
    found = compare_paired([(before, float(before))] * 20, [(now, float(now))] * 20)
    assert verdict_of(found, found.exact_match_p) == verdict


def test_a_true_null_is_rejected_no_more_often_than_it_may_be() -> None:
    random = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        right = random.random((2, 60)) < 0.6
        rejected += mcnemar_exact(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())) < 0.05
    assert rejected / 300 < 0.07


# Holm's procedure by hand: 3 * 0.01, then 2 * 0.02, then 1 * 0.04 and never less than the one before.
def test_many_comparisons_are_held_to_one_level() -> None:
    assert holm_adjusted([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm_adjusted([0.9, 0.8]) == [1.0, 1.0]
    assert holm_adjusted([]) == []


@pytest.mark.parametrize(("one", "other"), [([], []), ([(True, 1.0)], [])])
def test_unequal_rows_cannot_be_compared(one: list[tuple[bool, float]], other: list[tuple[bool, float]]) -> None:
    with pytest.raises(ValueError, match="same rows"):
        compare_paired(one, other)
