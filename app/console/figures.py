"""Numbers as people read them, in the language of the page."""

import math
import time
from datetime import UTC, datetime

from app.console.words import Words

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
NONE = "–"


def count(number: float | None) -> str:
    """Returns a whole number with thousands separated."""
    return NONE if number is None else f"{number:,.0f}"


def percent(share: float | None, *, digits: int = 1) -> str:
    """Returns a share of 0..1 in percent."""
    return NONE if share is None or math.isnan(share) else f"{100 * share:.{digits}f}%"


def decimal(number: float | None, *, digits: int = 3) -> str:
    """Returns a number with some digits after the point; very small ones as a power of ten."""
    if number is None or math.isnan(number):
        return NONE
    return f"{number:.2g}" if 0 < abs(number) < 10**-digits else f"{number:.{digits}f}"


def size(size_bytes: float | None) -> str:
    """Returns a size in bytes in the largest fitting unit."""
    if size_bytes is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError("the last unit returns")


def duration(seconds: float | None, words: Words) -> str:
    """Returns a span of seconds in at most two units."""
    if seconds is None:
        return NONE
    whole = max(0, round(seconds))
    if whole < _MINUTE_S:
        return words("time.seconds", n=whole)
    if whole < _HOUR_S:
        return words("time.minutes_seconds", m=whole // _MINUTE_S, s=whole % _MINUTE_S)
    return words("time.hours_minutes", h=whole // _HOUR_S, m=whole % _HOUR_S // _MINUTE_S)


def ago(moment: float | None, words: Words, *, now: float | None = None) -> str:
    """Returns how long ago a moment (seconds since 1970) was."""
    if moment is None:
        return NONE
    passed = (time.time() if now is None else now) - moment
    if passed < 10:
        return words("time.just_now")
    if passed < _MINUTE_S:
        return words("time.seconds_ago", n=int(passed))
    if passed < _HOUR_S:
        return words("time.minutes_ago", n=int(passed // _MINUTE_S))
    if passed < _DAY_S:
        return words("time.hours_ago", n=int(passed // _HOUR_S))
    if passed < 30 * _DAY_S:
        return words("time.days_ago", n=int(passed // _DAY_S))
    return iso(moment)[:10]


def iso(moment: float) -> str:
    """Returns a moment in UTC as ISO 8601, to the second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
