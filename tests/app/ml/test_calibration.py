import json
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.calibration import (
    Calibration,
    CalibrationRow,
    answer_confidence,
    expected_calibration_error,
    find_calibration,
    fit_calibration,
    step_log_probability,
)

STEPS = st.lists(st.lists(st.floats(-20, 5), min_size=2, max_size=6).map(tuple), max_size=5)


def drawn_rows(count: int, *, sharpness: float, seed: int = 0) -> list[CalibrationRow]:
    """Greedy answers of a model whose logits are `sharpness` times the true ones; so much is the right temperature."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        steps, chosen, is_right = [], [], True
        for width in (8, 4, 2):
            logits = [chance.gauss(0, 3) for _ in range(width)]
            true = chance.choices(range(width), weights=[math.exp(value) for value in logits])[0]
            greedy = logits.index(max(logits))
            steps.append(tuple(value * sharpness for value in logits))
            chosen.append(greedy)
            is_right &= greedy == true
        rows.append(CalibrationRow(tuple(steps), tuple(chosen), is_right))
    return rows


@pytest.fixture(scope="module")
def overconfident() -> Calibration:
    return fit_calibration(drawn_rows(1500, sharpness=2.0))


@pytest.mark.parametrize("sharpness", [0.6, 1.0, 2.0])
def test_the_temperature_undoes_a_models_exaggeration(sharpness: float) -> None:
    assert fit_calibration(drawn_rows(1500, sharpness=sharpness)).temperature == pytest.approx(sharpness, rel=0.15)


def test_calibration_makes_confidences_of_an_overconfident_model_better(overconfident: Calibration) -> None:
    assert overconfident.is_calibrated
    assert overconfident.ece < overconfident.ece_before
    assert overconfident.nll < overconfident.nll_before
    assert overconfident.brier < overconfident.brier_before


def test_a_calibrated_models_error_lies_within_the_band_of_a_perfect_one(overconfident: Calibration) -> None:
    low, high = overconfident.ece_band
    assert low <= overconfident.ece <= high < overconfident.ece_before


def test_calibration_holds_on_rows_that_it_was_not_fitted_on(overconfident: Calibration) -> None:
    fresh = drawn_rows(1500, sharpness=2.0, seed=9)
    confidences = [answer_confidence(row, temperature=overconfident.temperature) for row in fresh]
    assert expected_calibration_error(confidences, [row.is_right for row in fresh]) <= overconfident.ece_band[1] * 1.3


def test_few_rows_move_the_temperature_less_than_many() -> None:
    many = drawn_rows(800, sharpness=2.0)
    few, all_of_them = fit_calibration(many[:100]).temperature, fit_calibration(many * 3).temperature
    assert 1.0 < few < all_of_them


def test_fewer_than_a_hundred_rows_calibrate_nothing_and_promise_nothing() -> None:
    calibration = fit_calibration([CalibrationRow((), (), True)] * 99)
    assert (calibration.is_calibrated, calibration.temperature, calibration.rows) == (False, 1.0, 99)
    assert calibration.threshold_for(0.5) is None


def test_rows_that_are_all_right_keep_the_temperature_within_bounds() -> None:
    rows = [CalibrationRow(((0.0, -1.0),), (0,), True)] * 200
    assert 0.2 < fit_calibration(rows).temperature < 1.0


def test_an_answer_without_a_choice_is_certain() -> None:
    calibration = fit_calibration([CalibrationRow((), (), True)] * 150)
    assert calibration.temperature == pytest.approx(1.0, abs=0.01)
    assert (calibration.ece, calibration.brier) == (0.0, 0.0)
    assert calibration.threshold_for(0.9) == 1.0


def test_certain_answers_that_are_wrong_have_a_finite_likelihood() -> None:
    calibration = fit_calibration([CalibrationRow(((0.0, -1e4),), (0,), False)] * 150)
    assert math.isfinite(calibration.nll)
    assert calibration.threshold_for(0.5) is None


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        fit_calibration([])


def test_a_calibration_comes_back_from_json(overconfident: Calibration) -> None:
    assert find_calibration(json.loads(json.dumps(overconfident.to_mapping()))) == overconfident


@pytest.mark.parametrize("mapping", [None, {"version": 2}, {}])
def test_what_no_version_of_ours_wrote_is_no_calibration(mapping: dict[str, object] | None) -> None:
    assert find_calibration(mapping) is None


def test_the_curve_promises_more_precision_for_fewer_answers(overconfident: Calibration) -> None:
    assert len(overconfident.curve) <= 200
    low, high = overconfident.threshold_for(0.55), overconfident.threshold_for(0.7)
    assert low is not None
    assert high is not None
    assert low < high


@given(steps=STEPS, temperature=st.floats(0.25, 4.0))
@settings(max_examples=50)
def test_every_way_through_one_step_sums_to_one(steps: list[Sequence[float]], temperature: float) -> None:
    for step in steps:
        whole = sum(math.exp(step_log_probability(step, place, temperature=temperature)) for place in range(len(step)))
        assert whole == pytest.approx(1.0)


@given(steps=STEPS.filter(bool), low=st.floats(0.25, 2.0), higher=st.floats(1.0, 2.0))
@settings(max_examples=50)
def test_a_higher_temperature_makes_a_greedy_answer_less_sure(steps: list[tuple[float, ...]], low: float, higher: float) -> None:
    row = CalibrationRow(tuple(steps), tuple(step.index(max(step)) for step in steps), True)
    assert answer_confidence(row, temperature=low * higher) <= answer_confidence(row, temperature=low) * (1 + 1e-9)
