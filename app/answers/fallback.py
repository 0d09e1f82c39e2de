"""When a human should take over."""

from typing import Literal

from app.answers.backend import AnswerResult, ConfidentCode
from app.ml.codes import VALUE_CATEGORY, AnswerMode, category_of

FallbackReason = Literal["no_valid_code", "out_of_scope", "no_promised_precision", "low_confidence"]


def fallback_reason(
    result: AnswerResult, mode: AnswerMode, *, threshold: float | None, precision: float | None
) -> FallbackReason | None:
    """Returns why the answer should not be given as it is, the gravest reason first, or None.

    `threshold` is the asker's own; the one for a wished `precision` comes with the result, if it can be promised at all.
    """
    codes = result.best.codes
    if not codes or not all(_is_valid(code, mode) for code in codes):
        return "no_valid_code"
    if result.out_of_scope:
        return "out_of_scope"
    if precision is not None:
        if result.precision_threshold is None:
            return "no_promised_precision"
        threshold = result.precision_threshold
    if threshold is not None and result.best.confidence < threshold:
        return "low_confidence"
    return None


def _is_valid(code: ConfidentCode, mode: AnswerMode) -> bool:
    return code.in_vocabulary or (mode == "open_values" and category_of(code.code) == VALUE_CATEGORY)
