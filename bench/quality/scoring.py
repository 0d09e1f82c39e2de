"""What an answered part is worth, in the product's own metrics and the few that issue a table asks for beside them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.ml.evaluated_rows import EvaluatedRow
from app.ml.evaluation_metrics import measure
from app.ml.intervals import percentile_interval, resampled_sums
from app.ml.metrics import Codes, score_answers
from app.ml.training_knowledge import SEEN, UNSEEN
from bench.quality.datasets import OUT_OF_SCOPE

_METRICS = ("rows", "exact_match", "set_f1", "micro_f1", "ece", "ece_band", "nll", "brier", "mean_confidence", "mean_passes")
_COVERAGE = 0.9


def score_part(rows: Sequence[EvaluatedRow]) -> dict[str, Any]:
    """Returns the numbers of one part, and which rows are right (`"1"` or `"0"` a row), for intervals and paired tests."""
    metrics = measure(rows)
    right = [row.is_right for row in rows]
    return {
        **{name: metrics[name] for name in _METRICS},
        "exact_match_interval": list(_bootstrap(right)),
        "accuracy_at_90": accuracy_at(rows, _COVERAGE),
        "by_codes": {
            value: {"rows": part["rows"], "exact_match": part["exact_match"]}
            for value, part in metrics["slices"].get("codes_in_training", {}).items()
        },
        "by_verbatim": {
            value: {"rows": part["rows"], "exact_match": part["exact_match"]}
            for value, part in metrics["slices"].get("question_in_training", {}).items()
        },
        "right": "".join("01"[hit] for hit in right),
    }


def score_codes(given: Sequence[Codes], expected: Sequence[Codes], *, known: frozenset[str]) -> dict[str, Any]:
    """Returns the numbers of answers that have no confidence; `known` are the codes of training."""
    scores = score_answers(given, expected, None)
    right = [set(mine) == set(true) for mine, true in zip(given, expected, strict=True)]
    groups: dict[str, list[bool]] = {SEEN: [], UNSEEN: []}
    for hit, true in zip(right, expected, strict=True):
        groups[SEEN if known.issuperset(true) else UNSEEN].append(hit)
    return {
        "rows": scores.rows,
        "exact_match": scores.exact_match,
        "set_f1": scores.set_f1,
        "micro_f1": scores.micro_f1,
        "exact_match_interval": list(_bootstrap(right)),
        "by_codes": {name: share for name, group in groups.items() if (share := _share_of(group)) is not None},
        "right": "".join("01"[hit] for hit in right),
    }


def _share_of(hits: Sequence[bool]) -> dict[str, float] | None:
    return {"rows": len(hits), "exact_match": sum(hits) / len(hits)} if hits else None


def accuracy_at(rows: Sequence[EvaluatedRow], coverage: float) -> float:
    """Returns the share of right answers among the most confident `coverage` of the rows."""
    ranked = sorted(rows, key=lambda row: -row.confidence)
    kept = ranked[: max(1, round(coverage * len(rows)))]
    return sum(row.is_right for row in kept) / len(kept)


def scope_threshold(dev: Sequence[EvaluatedRow], *, may_cost: float) -> float:
    """Returns the confidence below which a question counts as out of scope, chosen on a dev file.

    The highest one that costs at most `may_cost` of the in-scope rows that are right without it.
    """
    inside = sorted(row.confidence for row in dev if OUT_OF_SCOPE not in row.expected and row.is_right)
    in_scope = sum(OUT_OF_SCOPE not in row.expected for row in dev)
    return inside[min(len(inside) - 1, int(may_cost * in_scope))] if inside else 0.0


def score_scope(rows: Sequence[EvaluatedRow], threshold: float) -> dict[str, float]:
    """Returns in-scope accuracy and out-of-scope recall where an answer below a threshold counts as out of scope."""
    inside = [row for row in rows if OUT_OF_SCOPE not in row.expected]
    outside = [row for row in rows if OUT_OF_SCOPE in row.expected]

    def is_refused(row: EvaluatedRow) -> bool:
        return OUT_OF_SCOPE in row.given or row.confidence < threshold

    return {
        "threshold": threshold,
        "in_scope_accuracy": sum(row.is_right and not is_refused(row) for row in inside) / len(inside),
        "out_of_scope_recall": sum(map(is_refused, outside)) / len(outside),
        "in_scope_accuracy_without": sum(row.is_right for row in inside) / len(inside),
        "out_of_scope_recall_without": sum(OUT_OF_SCOPE in row.given for row in outside) / len(outside),
        "out_of_scope_recall_by_novelty": sum(OUT_OF_SCOPE in row.given or row.fallback == "out_of_scope" for row in outside)
        / len(outside),
    }


def mean_over_seeds(rights: Sequence[str]) -> tuple[float, tuple[float, float]]:
    """Returns the mean share of right rows over seeds, and its 95 % interval by a bootstrap over rows."""
    columns = np.array([[char == "1" for char in right] for right in rights], dtype=np.float64).mean(axis=0)
    return float(columns.mean()), _bootstrap(columns.tolist())


def difference(mine: Sequence[str], other: Sequence[str]) -> tuple[float, tuple[float, float]]:
    """Returns how much larger the first share is than the second on the same rows, and the paired bootstrap's interval."""
    one, two = (
        np.array([[char == "1" for char in right] for right in rights], dtype=np.float64).mean(axis=0) for rights in (mine, other)
    )
    return float((one - two).mean()), _bootstrap((one - two).tolist())


def _bootstrap(values: Sequence[float]) -> tuple[float, float]:
    column = np.array(values, dtype=np.float64)[:, None]
    low, high = percentile_interval(resampled_sums(column)[:, 0] / len(values))
    return round(low, 4), round(high, 4)
