import numpy as np
import pytest

from app.ml.intervals import RESAMPLES, percentile_interval, resampled_sums, wilson_interval


# Brown, Cai and DasGupta (2001), table and formula; checked with statsmodels' proportion_confint(method="wilson").
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_wilsons_interval_is_that_of_the_tables(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_no_rows_tell_nothing_of_a_share() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_every_resample_draws_as_many_rows_as_there_are() -> None:
    sums = resampled_sums(np.ones((37, 2)))
    assert sums.shape == (RESAMPLES, 2)
    assert (sums == 37).all()


def test_resamples_spread_like_the_mean_of_independent_rows() -> None:
    values = np.random.default_rng(1).normal(size=(400, 1))
    means = resampled_sums(values)[:, 0] / 400
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.1)


def test_rows_of_many_blocks_are_resampled_as_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.ml import intervals

    columns = np.random.default_rng(2).random((50, 1))
    monkeypatch.setattr(intervals, "_BLOCK_NUMBERS", 120)
    low, high = percentile_interval(resampled_sums(columns)[:, 0] / 50)
    assert low < columns.mean() < high


def test_nothing_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        resampled_sums(np.ones((0, 1)))
