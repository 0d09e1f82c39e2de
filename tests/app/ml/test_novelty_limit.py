import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.novelty_limit import MIN_LIMIT_ROWS, find_novelty_limit


def test_few_held_out_questions_set_no_limit() -> None:
    assert find_novelty_limit([0.1] * (MIN_LIMIT_ROWS - 1)) is None


@given(novelties=st.lists(st.floats(0, 2), min_size=MIN_LIMIT_ROWS, max_size=300), rate=st.floats(0.01, 0.5))
def test_no_more_held_out_questions_pass_the_limit_than_wanted(novelties: list[float], rate: float) -> None:
    found = find_novelty_limit(novelties, false_alarm_rate=rate)
    assert found is not None
    assert found.rows == len(novelties)
    assert sum(novelty > found.limit for novelty in novelties) <= rate * len(novelties)


def test_the_limit_is_the_quantile_of_the_held_out_novelties() -> None:
    found = find_novelty_limit([number / 1000 for number in range(1000)], false_alarm_rate=0.02)
    assert found is not None
    assert found.limit == pytest.approx(0.980, abs=0.002)
