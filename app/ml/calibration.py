"""Confidences that mean what they say: one temperature, fitted on held-out rows when an adapter is made.

Pure Python, because the api reads it and the answer engine applies it.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from app.ml.precision_bound import CurvePoint, precision_curve, threshold_for_precision

CALIBRATION_VERSION = 1
MIN_CALIBRATION_ROWS = 100
SHOWN_PRECISIONS = (0.8, 0.9, 0.95, 0.98, 0.99)
_PRIOR_DEVIATION = 0.5
"""Standard deviation of log T before any row is seen: T lies between 0.37 and 2.7 with 95 %, around 1."""
_LOG_BOUND = 1.5
_GRID = 12
_BINS = 15
_SIMULATIONS = 1000
_TINY = 1e-12


@dataclass(frozen=True)
class CalibrationRow:
    """One held-out answer: what was allowed at each branching of its greedy path, what was taken, whether it was right."""

    steps: tuple[tuple[float, ...], ...]
    """Log-probabilities (or any logits) of the allowed tokens, a tuple a step with more than one allowed."""
    chosen: tuple[int, ...]
    """Place of the taken token in each step."""
    is_right: bool
    """Whether the answer's set of codes is the true one."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceQuality:
    """How well confidences tell right answers from wrong ones; the fields mean what those of `Calibration` do."""

    ece: float
    ece_band: tuple[float, float]
    nll: float
    brier: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was found on held-out rows; the quality is that on the rows it was fitted on, by one number."""

    temperature: float
    """Divides the log-probabilities of the allowed tokens at every step, for whole answers and single codes alike."""
    rows: int
    is_calibrated: bool
    """False for fewer than 100 rows: then the temperature is 1 and no precision is promised."""
    ece: float
    """Expected calibration error: mean distance of confidence and share right over 15 bins of equally many rows."""
    ece_band: tuple[float, float]
    """Where the ECE of a perfectly calibrated model with these confidences lies with 95 % (simulated)."""
    ece_before: float
    nll: float
    """Mean negative log-likelihood of right and wrong, nats."""
    nll_before: float
    brier: float
    """Mean squared distance of confidence and right (1) or wrong (0)."""
    brier_before: float
    curve: tuple[CurvePoint, ...]
    """Confidence, rows that have at least it, right rows of these; most confident first."""

    def threshold_for(self, precision: float, *, level: float = 0.95) -> float | None:
        """Returns the smallest confidence from which a precision is promised; None where none can be.

        See `threshold_for_precision` for the promise. The temperature was fitted on the same rows; it hardly changes their
        order, which is all that the threshold depends on.
        """
        return threshold_for_precision(self.curve, precision, level) if self.is_calibrated else None

    def to_summary(self) -> dict[str, Any]:
        """Returns what a person wants to see of it: all but the curve, and the thresholds of common precisions.

        `coverage` is the share of held-out answers that are accepted; both are None where the precision cannot be promised.
        """
        facts = {name: value for name, value in asdict(self).items() if name != "curve"}
        return {**facts, "thresholds": [self._promise(precision) for precision in SHOWN_PRECISIONS]}

    def _promise(self, precision: float) -> dict[str, float | None]:
        confidence = self.threshold_for(precision)
        accepted = next((accepted for threshold, accepted, _ in self.curve if threshold == confidence), None)
        return {
            "precision": precision,
            "confidence": confidence,
            "coverage": None if accepted is None else accepted / self.rows,
        }

    def to_mapping(self) -> dict[str, Any]:
        """Returns the JSON form, with `version`."""
        return {"version": CALIBRATION_VERSION, **asdict(self)}


def find_calibration(mapping: Mapping[str, Any] | None) -> Calibration | None:
    """Reads what `to_mapping` wrote; None for nothing, and for a version that this program does not know."""
    if mapping is None or mapping.get("version") != CALIBRATION_VERSION:
        return None
    values = {name: value for name, value in mapping.items() if name != "version"}
    low, high = values["ece_band"]
    curve = tuple((float(confidence), int(accepted), int(right)) for confidence, accepted, right in values["curve"])
    return Calibration(**values | {"ece_band": (low, high), "curve": curve})


def step_log_probability(allowed: Sequence[float], chosen: int, *, temperature: float = 1.0) -> float:
    """Returns the log-probability of one allowed token at a temperature; `allowed` are log-probabilities or logits."""
    most = max(allowed)
    whole = sum(math.exp((value - most) / temperature) for value in allowed)
    return (allowed[chosen] - most) / temperature - math.log(whole)


def answer_confidence(row: CalibrationRow, *, temperature: float = 1.0) -> float:
    """Returns the probability of a whole answer at a temperature."""
    return math.exp(
        math.fsum(
            step_log_probability(step, place, temperature=temperature) for step, place in zip(row.steps, row.chosen, strict=True)
        )
    )


def fit_calibration(rows: Sequence[CalibrationRow]) -> Calibration:
    """Fits the temperature to held-out answers: the likeliest for right and wrong, drawn to 1 by a prior.

    The prior is normal in log T with deviation 0.5: next to nothing against 1000 rows, a tangible pull with 100.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a calibration needs at least one row")
    is_right = [row.is_right for row in rows]
    before = [answer_confidence(row) for row in rows]
    is_calibrated = len(rows) >= MIN_CALIBRATION_ROWS
    temperature, after = 1.0, before
    if is_calibrated:
        temperature = math.exp(_minimum(lambda log: _objective(rows, log), -_LOG_BOUND, _LOG_BOUND))
        after = [answer_confidence(row, temperature=temperature) for row in rows]
    quality = measure_confidences(after, is_right)
    return Calibration(
        temperature=temperature,
        rows=len(rows),
        is_calibrated=is_calibrated,
        ece=quality.ece,
        ece_band=quality.ece_band,
        ece_before=expected_calibration_error(before, is_right),
        nll=quality.nll,
        nll_before=_nll(before, is_right) / len(rows),
        brier=quality.brier,
        brier_before=_brier(before, is_right),
        curve=precision_curve(after, is_right),
    )


def measure_confidences(confidences: Sequence[float], is_right: Sequence[bool]) -> ConfidenceQuality:
    """Says how well confidences tell right answers from wrong ones.

    Raises:
        ValueError: no rows.
    """
    if not confidences:
        raise ValueError("the quality of confidences needs at least one row")
    return ConfidenceQuality(
        ece=expected_calibration_error(confidences, is_right),
        ece_band=_perfect_band(confidences),
        nll=_nll(confidences, is_right) / len(confidences),
        brier=_brier(confidences, is_right),
    )


def expected_calibration_error(confidences: Sequence[float], is_right: Sequence[bool]) -> float:
    """Returns the mean over 15 bins of equally many rows of |mean confidence - share right|, weighted by rows."""
    ranked = sorted(zip(confidences, is_right, strict=True), key=lambda row: row[0])
    return _binned_error([confidence for confidence, _ in ranked], [hit for _, hit in ranked])


def _binned_error(ranked: Sequence[float], is_right: Sequence[bool]) -> float:
    count = len(ranked)
    edges = [number * count // _BINS for number in range(_BINS + 1)]
    return math.fsum(abs(sum(ranked[low:high]) - sum(is_right[low:high])) for low, high in pairwise(edges)) / count


def _perfect_band(confidences: Sequence[float]) -> tuple[float, float]:
    ranked, chance = sorted(confidences), random.Random(0)
    errors = sorted(_binned_error(ranked, [chance.random() < confidence for confidence in ranked]) for _ in range(_SIMULATIONS))
    return errors[round(0.025 * _SIMULATIONS)], errors[round(0.975 * _SIMULATIONS) - 1]


def _objective(rows: Sequence[CalibrationRow], log_temperature: float) -> float:
    temperature = math.exp(log_temperature)
    confidences = [answer_confidence(row, temperature=temperature) for row in rows]
    return _nll(confidences, [row.is_right for row in rows]) + (log_temperature / _PRIOR_DEVIATION) ** 2 / 2


def _nll(confidences: Sequence[float], is_right: Sequence[bool]) -> float:
    return -math.fsum(
        math.log(max(confidence if hit else 1 - confidence, _TINY)) for confidence, hit in zip(confidences, is_right, strict=True)
    )


def _brier(confidences: Sequence[float], is_right: Sequence[bool]) -> float:
    return math.fsum((confidence - hit) ** 2 for confidence, hit in zip(confidences, is_right, strict=True)) / len(confidences)


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Returns where a function of one number is least: the best of a grid, then golden-section search around it to 0.002."""
    grid = [low + (high - low) * number / _GRID for number in range(_GRID + 1)]
    values = [function(place) for place in grid]
    best = values.index(min(values))
    low, high = grid[max(0, best - 1)], grid[min(_GRID, best + 1)]
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 0.002:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = function(right)
    return (low + high) / 2
