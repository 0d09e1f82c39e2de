import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.precision_bound import (
    binomial_upper_tail,
    clopper_pearson_lower,
    precision_curve,
    threshold_for_precision,
)

COUNTS = st.integers(1, 60).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))
RANKED = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=400)


@given(counts=COUNTS, probability=st.floats(0, 1))
def test_a_tail_is_the_sum_of_its_terms(counts: tuple[int, int], probability: float) -> None:
    successes, trials = counts
    terms = (math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(successes, trials + 1))
    assert binomial_upper_tail(successes, trials, probability) == pytest.approx(sum(terms), rel=1e-9, abs=1e-12)


@given(counts=COUNTS, level=st.sampled_from([0.9, 0.95, 0.99]))
def test_at_the_lower_bound_as_many_successes_are_just_as_rare_as_the_level_says(counts: tuple[int, int], level: float) -> None:
    successes, trials = counts
    bound = clopper_pearson_lower(successes, trials, level=level)
    assert 0.0 <= bound <= successes / trials
    if successes:
        assert binomial_upper_tail(successes, trials, bound) == pytest.approx(1 - level, rel=1e-6)


def test_the_lower_bound_of_all_right_is_the_root_of_the_error() -> None:
    assert clopper_pearson_lower(59, 59) == pytest.approx(0.05 ** (1 / 59))


@pytest.mark.parametrize("counts", [(0, 0), (0, 9)])
def test_nothing_right_promises_nothing(counts: tuple[int, int]) -> None:
    assert clopper_pearson_lower(*counts) == 0.0


@given(rows=RANKED, points=st.integers(1, 50))
def test_a_curve_counts_the_rows_of_at_least_its_confidence(rows: list[tuple[float, bool]], points: int) -> None:
    curve = precision_curve([c for c, _ in rows], [hit for _, hit in rows], points=points)
    assert 1 <= len(curve) <= points
    assert curve[-1][1:] == (len(rows), sum(hit for _, hit in rows))
    assert [c for c, _, _ in curve] == sorted({c for c, _, _ in curve}, reverse=True)
    for threshold, accepted, right in curve:
        above = [hit for confidence, hit in rows if confidence >= threshold]
        assert (accepted, right) == (len(above), sum(above))


@given(rows=RANKED, precision=st.floats(0.05, 0.99))
def test_the_rows_above_a_threshold_bear_its_promise(rows: list[tuple[float, bool]], precision: float) -> None:
    curve = precision_curve([c for c, _ in rows], [hit for _, hit in rows])
    threshold = threshold_for_precision(curve, precision, 0.95)
    if threshold is not None:
        above = [hit for confidence, hit in rows if confidence >= threshold]
        assert clopper_pearson_lower(sum(above), len(above)) >= precision


def test_a_higher_precision_needs_no_lower_confidence() -> None:
    chance = random.Random(3)
    confidences = [chance.random() for _ in range(2000)]
    curve = precision_curve(confidences, [chance.random() < confidence**0.2 for confidence in confidences])
    thresholds = [threshold_for_precision(curve, precision, 0.95) for precision in (0.7, 0.8, 0.85, 0.9)]
    assert None not in thresholds
    assert thresholds == sorted(thresholds)  # type: ignore[type-var]


@pytest.mark.parametrize("precision", [0.0, 1.0, -1.0, 2.0])
def test_no_threshold_is_promised_for_what_is_no_precision(precision: float) -> None:
    assert threshold_for_precision(precision_curve([0.9] * 500, [True] * 500), precision, 0.95) is None


def test_too_few_right_rows_promise_nothing() -> None:
    assert threshold_for_precision(precision_curve([0.9] * 20, [True] * 20), 0.9, 0.95) is None


def test_an_early_error_does_not_end_the_search() -> None:
    confidences = [1 - number / 1000 for number in range(500)]
    assert threshold_for_precision(precision_curve(confidences, [False] + [True] * 499), 0.9, 0.95) == confidences[-1]


def test_a_promise_is_broken_no_more_often_than_its_level_says() -> None:
    # Answers are right with a chance of exactly their confidence, so the true precision above a threshold t is (1 + t) / 2.
    chance, broken, rounds = random.Random(5), 0, 300
    for _ in range(rounds):
        confidences = [chance.random() for _ in range(400)]
        curve = precision_curve(confidences, [chance.random() < confidence for confidence in confidences])
        threshold = threshold_for_precision(curve, 0.8, 0.95)
        broken += threshold is not None and (1 + threshold) / 2 < 0.8
    assert broken <= 0.05 * rounds
