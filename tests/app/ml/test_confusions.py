from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.ml.confusions import Confusion, align_codes, count_confusions
from app.ml.metrics import Codes

ANSWERS = st.lists(st.sampled_from(["a_1", "a_2", "a_3", "b_1", "b_2", "9.9"]), max_size=4, unique=True).map(tuple)


def test_a_missed_code_is_paired_with_the_surplus_one_of_its_category() -> None:
    pairs = align_codes(("业务简介_111", "9.9", "开通方式_98"), ("业务简介_111", "11.9", "开通方式_99"))
    assert pairs == [("11.9", "9.9"), ("开通方式_99", "开通方式_98")]


def test_the_one_code_that_is_missing_is_paired_with_the_one_that_is_too_many() -> None:
    assert align_codes(("业务简介_1", "9.9"), ("业务简介_2", "开通方式_1")) == [
        ("业务简介_2", "业务简介_1"),
        ("开通方式_1", "9.9"),
    ]


def test_of_several_codes_of_other_categories_nobody_knows_which_stood_for_which() -> None:
    assert align_codes(("9.9",), ("业务简介_1", "开通方式_1")) == [("业务简介_1", None), ("开通方式_1", None), (None, "9.9")]


def test_confusions_are_counted_over_rows_the_most_frequent_first() -> None:
    given_codes = [("a_2",), ("a_2",), ("b_1", "a_3")]
    expected = [("a_1",), ("a_1",), ("b_1",)]
    assert count_confusions(given_codes, expected, most=5) == [Confusion("a_1", "a_2", 2), Confusion(None, "a_3", 1)]
    assert len(count_confusions(given_codes, expected, most=1)) == 1


@given(ANSWERS, ANSWERS)
def test_every_missed_and_every_surplus_code_stands_in_exactly_one_pair(answer: Codes, truth: Codes) -> None:
    pairs = align_codes(answer, truth)
    assert Counter(true for true, _ in pairs if true) == Counter(set(truth) - set(answer))
    assert Counter(wrong for _, wrong in pairs if wrong) == Counter(set(answer) - set(truth))
