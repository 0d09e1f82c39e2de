"""Everything that an evaluation's rows say of a model, as one JSON object."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from app.ml.calibration import measure_confidences
from app.ml.code_scores import MAX_CATEGORIES, count_codes, f1_intervals, macro_f1, pool_categories
from app.ml.confusions import count_confusions
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.intervals import wilson_interval
from app.ml.metrics import score_answers, set_f1
from app.ml.precision_bound import precision_curve

MAX_CONFUSIONS = 100
MAX_SLICE_VALUES = 50
OTHER = "(other)"
"""The slice of all values beyond the most frequent ones."""
_CURVE_POINTS = 50
_SHARES: Mapping[str, Callable[[EvaluatedRow], bool]] = {
    "exact_match": lambda row: row.is_right,
    "ordered_match": lambda row: row.given == row.expected,
    "invalid_rate": lambda row: row.is_invalid,
    "fallback_rate": lambda row: row.fallback is not None,
}


def measure(rows: Sequence[EvaluatedRow]) -> dict[str, Any]:
    """Returns the metrics of all rows; every rate is in 0..1.

    `rows`, `exact_match`, `ordered_match`, `set_f1`, `micro_f1`, `macro_f1_by_code`, `macro_f1_by_category`, `invalid_rate`,
    `fallback_rate`, `answered_exact_match` (of the rows without a fallback; None where there are none), `ece`, `ece_band`,
    `nll`, `brier`, `mean_confidence`, `mean_passes`; `intervals` (95 %); `by_category`; `coverage_curve`; `confusions`;
    `slices`; `latency_ms`.

    Raises:
        ValueError: no rows.
    """
    given, expected = [row.given for row in rows], [row.expected for row in rows]
    scores = score_answers(given, expected, None).to_mapping()
    by_code = count_codes(given, expected)
    by_category = pool_categories(by_code)
    hits, confidences = [row.is_right for row in rows], [row.confidence for row in rows]
    shares = {name: sum(map(holds, rows)) for name, holds in _SHARES.items()}
    answered = [row for row in rows if row.fallback is None]
    quality = measure_confidences(confidences, hits)
    return {
        **scores,
        **{name: count / len(rows) for name, count in shares.items()},
        "macro_f1_by_code": macro_f1(by_code),
        "macro_f1_by_category": macro_f1(by_category),
        "answered_exact_match": sum(row.is_right for row in answered) / len(answered) if answered else None,
        "mean_confidence": math.fsum(confidences) / len(rows),
        **asdict(quality),
        "ece_band": list(quality.ece_band),
        "mean_passes": sum(row.passes for row in rows) / len(rows),
        "intervals": {
            **{name: list(wilson_interval(count, len(rows))) for name, count in shares.items()},
            **{name: list(bounds) for name, bounds in f1_intervals(given, expected, list(by_category)).items()},
        },
        "by_category": {name: counts.to_mapping() for name, counts in list(by_category.items())[:MAX_CATEGORIES]},
        "coverage_curve": [
            {"confidence": confidence, "coverage": accepted / len(rows), "exact_match": right / accepted}
            for confidence, accepted, right in precision_curve(confidences, hits, points=_CURVE_POINTS)
        ],
        "confusions": [asdict(one) for one in count_confusions(given, expected, most=MAX_CONFUSIONS)],
        "slices": measure_slices(rows),
        "latency_ms": _percentiles([row.latency_ms for row in rows]),
    }


def measure_slices(rows: Sequence[EvaluatedRow]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns for each slice and each of its values, the most frequent first, how many rows it has and how right they are."""
    values: dict[str, dict[str, list[EvaluatedRow]]] = {}
    for row in rows:
        for name, value in row.slices.items():
            values.setdefault(name, {}).setdefault(value, []).append(row)
    measured = {}
    for name, groups in values.items():
        ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        kept = dict(ranked[:MAX_SLICE_VALUES])
        if rest := [row for _, group in ranked[MAX_SLICE_VALUES:] for row in group]:
            kept[OTHER] = kept.get(OTHER, []) + rest
        measured[name] = {value: _measure_slice(group) for value, group in kept.items()}
    return measured


def _measure_slice(rows: Sequence[EvaluatedRow]) -> dict[str, Any]:
    right = sum(row.is_right for row in rows)
    return {
        "rows": len(rows),
        "exact_match": right / len(rows),
        "exact_match_interval": list(wilson_interval(right, len(rows))),
        "set_f1": math.fsum(set_f1(row.given, row.expected) for row in rows) / len(rows),
        "invalid_rate": sum(row.is_invalid for row in rows) / len(rows),
        "fallback_rate": sum(row.fallback is not None for row in rows) / len(rows),
        "mean_confidence": math.fsum(row.confidence for row in rows) / len(rows),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns p50, p90 and p99 (the smallest value that so many percent do not pass), and the mean."""
    ranked = sorted(values)
    found = {f"p{percent}": ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)] for percent in (50, 90, 99)}
    return {**found, "mean": math.fsum(ranked) / len(ranked)}
