import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.codes import parse_answer
from app.ml.metrics import AnswerScores, score_answers, set_f1

Codes = tuple[str, ...]
ANSWERS = st.lists(st.sampled_from("abcd"), max_size=4).map(tuple)
PAIRS = st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=6)


def score_one(predicted: str, true: str) -> AnswerScores:
    return score_answers([parse_answer(predicted)], [parse_answer(true)], None)


# Counted by hand: |P|, |T|, |P∩T| stand behind each row.
@pytest.mark.parametrize(
    ("predicted", "true", "exact", "ordered", "f1"),
    [
        ("业务简介_117|9.9|11.9|开通方式_89", "业务简介_111|9.9|11.9|开通方式_98", 0.0, 0.0, 0.50),  # 4, 4, 2
        ("取消方式_133", "取消方式_13", 0.0, 0.0, 0.0),  # 1, 1, 0
        ("9.9|业务简介_111", "业务简介_111|9.9", 1.0, 0.0, 1.0),  # 2, 2, 2
        ("业务简介_111", "业务简介_111", 1.0, 1.0, 1.0),  # 1, 1, 1
        ("业务简介_111", "业务简介_111|9.9", 0.0, 0.0, 2 / 3),  # 1, 2, 1
    ],
)
def test_scores_are_those_counted_by_hand(predicted: str, true: str, exact: float, ordered: float, f1: float) -> None:
    scores = score_one(predicted, true)
    assert [scores.exact_match, scores.ordered_match, scores.set_f1] == pytest.approx([exact, ordered, f1])


def test_set_f1_is_the_mean_over_rows_and_micro_f1_that_over_codes() -> None:
    # Row 1: P = {a}, T = {a}: F1 1. Row 2: P = {b, c, d}, T = {x}: F1 0. Micro: 2 * 1 / (2 + 4).
    scores = score_answers([("a",), ("b", "c", "d")], [("a",), ("x",)], None)
    assert [scores.rows, scores.set_f1, scores.micro_f1] == pytest.approx([2, 0.5, 1 / 3])


def test_answers_outside_the_vocabulary_are_invalid() -> None:
    scores = score_answers([("a",), ("z",), ("a", "z"), ()], [("a",)] * 4, frozenset("a"))
    assert scores.invalid_rate == 0.75


def test_without_a_vocabulary_only_an_empty_code_is_invalid() -> None:
    assert score_answers([("z",), ("",)], [("a",)] * 2, None).invalid_rate == 0.5


@pytest.mark.parametrize(("predicted", "true"), [([], []), ([("a",)], []), ([], [("a",)])])
def test_scores_of_nothing_or_of_unequal_lists_are_refused(predicted: list[Codes], true: list[Codes]) -> None:
    with pytest.raises(ValueError, match="as many answers as truths"):
        score_answers(predicted, true, None)


@given(ANSWERS, ANSWERS)
def test_set_f1_is_symmetric(one: Codes, other: Codes) -> None:
    assert set_f1(one, other) == set_f1(other, one)


@given(ANSWERS, ANSWERS)
def test_set_f1_is_one_exactly_for_equal_sets(one: Codes, other: Codes) -> None:
    assert (set_f1(one, other) == 1.0) == (set(one) == set(other))


@settings(deadline=None)
@given(PAIRS)
def test_every_rate_is_between_zero_and_one_and_stricter_ones_are_lower(pairs: list[tuple[Codes, Codes]]) -> None:
    scores = score_answers([p for p, _ in pairs], [t for _, t in pairs], frozenset("ab"))
    rates = [value for name, value in scores.to_mapping().items() if name != "rows"]
    assert all(isinstance(rate, float) and 0.0 <= rate <= 1.0 for rate in rates)
    assert scores.ordered_match <= scores.exact_match <= scores.set_f1 + 1e-12


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pairs: list[tuple[Codes, Codes]], random: object) -> None:
    def score(some: list[tuple[Codes, Codes]]) -> list[object]:
        mapping = score_answers([p for p, _ in some], [t for _, t in some], None).to_mapping()
        return [pytest.approx(value) for value in mapping.values()]

    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert list(score_answers([p for p, _ in shuffled], [t for _, t in shuffled], None).to_mapping().values()) == score(pairs)
