import pytest

from app.console.figures import ago, count, decimal, duration, percent, size
from app.console.words import Words

EN = Words("en")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 1024**3, "3.0 GiB"), (5 * 1024**4, "5120.0 GiB")],
)
def test_a_size_is_in_the_largest_fitting_unit(size_bytes: int | None, text: str) -> None:
    assert size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (-3, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (7_260, "2 h 1 min")]
)
def test_a_duration_has_at_most_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds, EN) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [(-5, "just now"), (3, "just now"), (59, "59 s ago"), (61, "1 min ago"), (7_300, "2 h ago"), (200_000, "2 d ago")],
)
def test_a_moment_is_told_by_how_long_ago_it_was(passed: float, text: str) -> None:
    assert ago(1e9 - passed, EN, now=1e9) == text


def test_a_moment_long_ago_is_a_date() -> None:
    assert ago(0.0, EN, now=1e9) == "1970-01-01"


def test_numbers_are_grouped_rounded_or_absent() -> None:
    assert (count(1234567), count(None)) == ("1,234,567", "–")
    assert (percent(0.98765), percent(None), percent(float("nan"))) == ("98.8%", "–", "–")
    assert (decimal(0.12345), decimal(0.00001234), decimal(0), decimal(None)) == ("0.123", "1.2e-05", "0.000", "–")
