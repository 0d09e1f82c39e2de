import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_fscore_support
from sklearn.preprocessing import MultiLabelBinarizer

from app.ml.code_scores import MAX_CATEGORIES, LabelCounts, count_codes, f1_intervals, macro_f1, pool_categories
from app.ml.codes import category_of
from app.ml.metrics import Codes, score_answers

CODES = ("开通方式_98", "开通方式_99", "业务简介_1", "业务简介_11", "取消方式_3", "9.9", "11.9")
ANSWERS = st.lists(st.sampled_from(CODES), max_size=4, unique=True).map(tuple)
PAIRS = st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=12)


def unzip(pairs: list[tuple[Codes, Codes]]) -> tuple[list[Codes], list[Codes]]:
    return [answer for answer, _ in pairs], [truth for _, truth in pairs]


@settings(max_examples=150)
@given(PAIRS)
def test_scores_agree_with_scikit_learn_on_multi_label_data(pairs: list[tuple[Codes, Codes]]) -> None:
    answers, truths = unzip(pairs)
    by_code = count_codes(answers, truths)
    labels = list(by_code)
    # One column more, of nothing: scikit-learn takes a single column for something else than labels.
    binarizer = MultiLabelBinarizer(classes=[*labels, "nothing"])
    y_true, y_pred = binarizer.fit_transform(truths), binarizer.transform(answers)
    scores = score_answers(answers, truths, None)
    assert scores.exact_match == pytest.approx(np.mean((y_true == y_pred).all(axis=1)))
    if not labels:
        return
    assert scores.set_f1 == pytest.approx(f1_score(y_true, y_pred, average="samples", zero_division=1.0))
    assert scores.micro_f1 == pytest.approx(f1_score(y_true, y_pred, average="micro", zero_division=1.0))
    macro = f1_score(y_true, y_pred, average="macro", labels=range(len(labels)), zero_division=0.0)
    assert macro_f1(by_code) == pytest.approx(macro)
    for category, counts in pool_categories(by_code).items():
        places = [place for place, code in enumerate(labels) if category_of(code) == category]
        precision, recall, f1, _ = precision_recall_fscore_support(
            y_true[:, places].ravel(), y_pred[:, places].ravel(), average="binary", zero_division=0.0
        )
        assert (counts.precision, counts.recall, counts.f1) == pytest.approx((precision, recall, f1))


def test_a_code_of_another_number_scores_as_a_miss() -> None:
    answers, truths = [("开通方式_98",)], [("开通方式_99",)]
    scores = score_answers(answers, truths, None)
    by_code = count_codes(answers, truths)
    assert (scores.exact_match, scores.set_f1, scores.micro_f1, macro_f1(by_code)) == (0.0, 0.0, 0.0, 0.0)
    assert pool_categories(by_code) == {"开通方式": LabelCounts(1, 1, 0)}


def test_categories_are_ranked_by_how_often_they_are_true() -> None:
    by_code = count_codes([("业务简介_1",)] * 3, [("取消方式_3",), ("取消方式_3",), ("9.9",)])
    assert list(pool_categories(by_code)) == ["取消方式", "value", "业务简介"]


def test_every_interval_holds_its_metric_and_is_the_same_each_time() -> None:
    rows = [(("业务简介_1", "9.9"), ("业务简介_1", "11.9")), (("取消方式_3",), ("取消方式_3",)), ((), ("取消方式_3", "9.9"))] * 20
    answers, truths = unzip(rows)
    categories = list(pool_categories(count_codes(answers, truths)))
    intervals = f1_intervals(answers, truths, categories)
    scores = score_answers(answers, truths, None)
    by_category = macro_f1(pool_categories(count_codes(answers, truths)))
    for name, value in (("set_f1", scores.set_f1), ("micro_f1", scores.micro_f1), ("macro_f1_by_category", by_category)):
        low, high = intervals[name]
        assert low < value < high
    assert f1_intervals(answers, truths, categories) == intervals


def test_more_categories_than_fit_into_memory_have_no_interval_of_their_macro_f1() -> None:
    truths = [(f"类{number}_1",) for number in range(MAX_CATEGORIES + 1)]
    categories = list(pool_categories(count_codes(truths, truths)))
    assert f1_intervals(truths, truths, categories) == {"set_f1": (1.0, 1.0), "micro_f1": (1.0, 1.0)}
