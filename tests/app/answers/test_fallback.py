import pytest

from app.answers.backend import AnswerResult, Candidate, ConfidentCode
from app.answers.fallback import fallback_reason


def result(code: str = "a_1", *, known: bool = True, out_of_scope: bool = False, promised: float | None = None) -> AnswerResult:
    best = Candidate((ConfidentCode(code, 0.8, known),), 0.8)
    return AnswerResult(best, (), 1, 1, out_of_scope=out_of_scope, precision_threshold=promised)


def test_a_known_code_without_a_wish_is_given_as_it_is() -> None:
    assert fallback_reason(result(), "closed", threshold=None, precision=None) is None


def test_an_unknown_value_is_valid_where_values_are_open() -> None:
    assert fallback_reason(result("12.9", known=False), "open_values", threshold=None, precision=None) is None


@pytest.mark.parametrize(("code", "mode"), [("12.9", "closed"), ("b_2", "open_values"), ("b_2", "free")])
def test_what_the_mode_does_not_allow_is_no_valid_code(code: str, mode: str) -> None:
    assert fallback_reason(result(code, known=False), mode, threshold=None, precision=None) == "no_valid_code"  # type: ignore[arg-type]


def test_a_question_out_of_scope_is_handed_over_whatever_its_confidence() -> None:
    assert fallback_reason(result(out_of_scope=True), "closed", threshold=0.1, precision=None) == "out_of_scope"


def test_a_precision_that_cannot_be_promised_is_handed_over() -> None:
    assert fallback_reason(result(), "closed", threshold=None, precision=0.9) == "no_promised_precision"


@pytest.mark.parametrize(("promised", "reason"), [(0.7, None), (0.8, None), (0.9, "low_confidence")])
def test_a_wished_precision_brings_its_threshold(promised: float, reason: str | None) -> None:
    assert fallback_reason(result(promised=promised), "closed", threshold=None, precision=0.9) == reason
