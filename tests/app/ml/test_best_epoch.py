import pytest

from app.ml.best_epoch import epochs_without_improvement, find_best
from app.ml.spec import BestMetric


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("exact_match", [0.1, 0.5, 0.4], 1),
        ("set_f1", [0.1, 0.5, 0.9], 2),
        ("eval_loss", [2.0, 1.5, 1.6], 1),
        ("invalid_rate", [0.2, 0.1, 0.0], 2),
        ("exact_match", [0.5, 0.5], 0),
        ("eval_loss", [1.0, 1.0], 0),
    ],
)
def test_the_best_epoch_is_the_first_with_the_best_score(metric: BestMetric, values: list[float], best: int) -> None:
    scores = [{metric: value} for value in values]
    assert find_best(scores, metric) == best
    assert epochs_without_improvement(scores, metric) == len(values) - 1 - best


def test_scores_without_the_metric_do_not_count() -> None:
    assert find_best([{"step": 1}, {"step": 2, "set_f1": 0.1}, {"step": 3}], "set_f1") == 1
    assert find_best([{"step": 1}], "set_f1") is None
    assert find_best([], "eval_loss") is None


def test_before_the_first_epoch_nothing_is_without_improvement() -> None:
    assert epochs_without_improvement([], "exact_match") == 0
