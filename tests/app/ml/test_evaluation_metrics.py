import json
from typing import Any

import pytest

from app.ml.calibration import expected_calibration_error
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.evaluation_metrics import MAX_SLICE_VALUES, OTHER, measure, measure_slices


def row(number: int, given: str, expected: str, **fields: Any) -> EvaluatedRow:
    values: dict[str, Any] = {
        "code_confidences": (0.9,),
        "confidence": 0.9,
        "in_vocabulary": True,
        "fallback": None,
        "latency_ms": float(number),
        "passes": 2,
        **fields,
    }
    codes = {"given": tuple(given.split("|")) if given else (), "expected": tuple(expected.split("|"))}
    return EvaluatedRow(row=number, question=f"问{number}", **codes, **values)


ROWS = [
    row(1, "开通方式_98", "开通方式_98", slices={"答案类型": "属性值"}),
    row(2, "9.9|业务简介_1", "业务简介_1|9.9", slices={"答案类型": "并列句"}),
    row(3, "开通方式_98", "开通方式_99", confidence=0.2, fallback="low_confidence", slices={"答案类型": "属性值"}),
    row(4, "", "开通方式_99", confidence=0.1, fallback="no_valid_code"),
]


def test_the_metrics_are_those_counted_by_hand() -> None:
    metrics = measure(ROWS)
    assert metrics["rows"] == 4
    assert (metrics["exact_match"], metrics["ordered_match"], metrics["set_f1"]) == (0.5, 0.25, 0.5)
    assert (metrics["invalid_rate"], metrics["fallback_rate"], metrics["answered_exact_match"]) == (0.25, 0.5, 1.0)
    # Codes: 98 true 1 given 2 right 1; 99 true 2 given 0; 业务简介_1 and 9.9 right once each.
    assert metrics["macro_f1_by_code"] == pytest.approx((2 / 3 + 0 + 1 + 1) / 4)
    assert metrics["by_category"]["开通方式"] == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "expected": 3, "given": 2, "right": 1}
    )
    assert metrics["confusions"] == [
        {"expected": "开通方式_99", "given": None, "rows": 1},
        {"expected": "开通方式_99", "given": "开通方式_98", "rows": 1},
    ]
    assert metrics["latency_ms"] == {"p50": 2.0, "p90": 4.0, "p99": 4.0, "mean": 2.5}


def test_confidences_are_judged_as_those_of_a_calibration_are() -> None:
    metrics = measure(ROWS)
    assert metrics["ece"] == expected_calibration_error([0.9, 0.9, 0.2, 0.1], [True, True, False, False])
    assert metrics["brier"] == pytest.approx((0.01 + 0.01 + 0.04 + 0.01) / 4)
    assert metrics["ece_band"][0] <= metrics["ece_band"][1]


def test_the_curve_says_how_right_the_most_confident_answers_are() -> None:
    curve = measure(ROWS)["coverage_curve"]
    assert curve == [
        {"confidence": 0.9, "coverage": 0.5, "exact_match": 1.0},
        {"confidence": 0.2, "coverage": 0.75, "exact_match": 2 / 3},
        {"confidence": 0.1, "coverage": 1.0, "exact_match": 0.5},
    ]


def test_every_interval_belongs_to_a_metric_and_holds_it() -> None:
    metrics = measure(ROWS * 10)
    for name, (low, high) in metrics["intervals"].items():
        assert 0.0 <= low <= metrics[name] <= high <= 1.0


def test_a_slice_has_the_scores_of_its_rows_alone() -> None:
    slices = measure(ROWS)["slices"]["答案类型"]
    assert list(slices) == ["属性值", "并列句"]
    assert (slices["属性值"]["rows"], slices["属性值"]["exact_match"], slices["属性值"]["fallback_rate"]) == (2, 0.5, 0.5)
    assert (slices["并列句"]["rows"], slices["并列句"]["exact_match"]) == (1, 1.0)


def test_values_beyond_the_most_frequent_share_a_slice() -> None:
    many = [row(number, "a_1", "a_1", slices={"实体": str(number)}) for number in range(1, MAX_SLICE_VALUES + 4)]
    slices = measure_slices(many)["实体"]
    assert len(slices) == MAX_SLICE_VALUES + 1
    assert slices[OTHER]["rows"] == 3


def test_the_metrics_are_json_and_a_row_comes_back_as_it_was() -> None:
    json.dumps(measure(ROWS), allow_nan=False)
    assert [EvaluatedRow.from_mapping(json.loads(json.dumps(one.to_mapping()))) for one in ROWS] == ROWS


def test_no_rows_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure([])
