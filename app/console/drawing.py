"""Plots as SVG made on the server: what is seen before, or without, the scripts. Colours are the stylesheet's."""

import math
from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from app.console.plots import Plot, Series

_WIDTH, _HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 42
_BAR_ROW, _LABEL_WIDTH, _LABEL_CHARS = 22, 168, 20
_COLOURS = 6


def draw(plot: Plot) -> Markup:
    """Returns the SVG element of a plot."""
    body, height = _draw_across(plot) if plot.across else (_draw_upright(plot), _HEIGHT)
    return Markup(  # noqa: S704  # every text in it has gone through escape
        f'<svg class="drawn" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(plot.title)}">{body}</svg>'
    )


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Returns round numbers that cover low..high, at most `most` + 1 of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _draw_upright(plot: Plot) -> str:
    values = [value for one in plot.series for value in (*one.y, *one.high, *one.low) if math.isfinite(value)]
    if not values:
        return ""
    low, high = (0.0 if plot.y_from_zero else min(values)), max(values)
    high = high * 1.05 if high > low else low + 1.0
    names = _names(plot.series)
    xs = [float(x) for one in plot.series for x in one.x] if names is None else [-0.5, len(names) - 0.5]
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def place_x(x: float) -> float:
        return _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in ticks(low, high):
        y = place_y(tick)
        label = f"{100 * tick:g}%" if plot.y_percent else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    labels = (
        [(tick, f"{100 * tick:g}%" if plot.x_percent else f"{tick:g}") for tick in ticks(left, right)]
        if names is None
        else list(enumerate(names))
    )
    for x, label in labels:
        parts.append(f'<text x="{place_x(x):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{_short(label, 16)}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(plot.x_title)}</text>'
    )
    bar_rows = [one for one in plot.series if one.kind == "bars"]
    for place_of_series, one in enumerate(plot.series):
        number = place_of_series % _COLOURS + 1
        at = [float(x) for x in one.x] if names is None else [float(names.index(str(x))) for x in one.x]
        if one.kind == "bars":
            width = (_WIDTH - _LEFT - _RIGHT) / (right - left) * 0.7 / len(bar_rows)
            shift = (bar_rows.index(one) - (len(bar_rows) - 1) / 2) * width
            for place, value in enumerate(one.y):
                x, y = place_x(at[place]) + shift, place_y(value)
                parts.append(
                    f'<rect class="fill-{number}" x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
                    f'height="{max(0.0, place_y(low) - y):.1f}"/>'
                )
                if one.low and one.high:
                    parts.append(_whisker(x, place_y(one.low[place]), place_y(one.high[place])))
        else:
            points = [(place_x(x), place_y(y)) for x, y in zip(at, one.y, strict=True) if math.isfinite(y)]
            parts.append(_line(points, number, one))
    return "".join(parts)


def _draw_across(plot: Plot) -> tuple[str, int]:
    (one,) = plot.series
    height = _BAR_ROW * len(one.x) + 8
    longest = max((*one.y, *one.high), default=0) or 1.0
    room = _WIDTH - _LABEL_WIDTH - 60
    parts = []
    for place, (label, value) in enumerate(zip(one.x, one.y, strict=True)):
        y = 4 + place * _BAR_ROW
        text = f"{100 * value:.1f}%" if plot.y_percent else f"{value:,.0f}"
        width = room * value / longest
        parts.append(f'<text x="{_LABEL_WIDTH - 8}" y="{y + 15}" text-anchor="end">{_short(str(label), _LABEL_CHARS)}</text>')
        parts.append(f'<rect class="fill-1" x="{_LABEL_WIDTH}" y="{y + 3}" width="{width:.1f}" height="{_BAR_ROW - 6}" rx="2"/>')
        end = width
        if one.low and one.high:
            low, end = room * one.low[place] / longest, max(width, room * one.high[place] / longest)
            parts.append(f'<path class="whisker" d="M{_LABEL_WIDTH + low:.1f} {y + _BAR_ROW / 2}H{_LABEL_WIDTH + end:.1f}"/>')
        parts.append(f'<text x="{_LABEL_WIDTH + end + 6:.1f}" y="{y + 15}">{text}</text>')
    return "".join(parts), height


def _line(points: Sequence[tuple[float, float]], number: int, one: Series) -> str:
    if one.kind == "dots" or len(points) == 1:
        return "".join(f'<circle class="fill-{number}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line-{number}{" faint" if one.kind == "faint" else ""}" points="{path}"/>'


def _whisker(x: float, low: float, high: float) -> str:
    return f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 5:.1f} {low:.1f}h10M{x - 5:.1f} {high:.1f}h10"/>'


def _names(series: Sequence[Series]) -> list[str] | None:
    """Returns the names on the x axis in their order, or None where it is an axis of numbers."""
    if all(isinstance(x, int | float) for one in series for x in one.x):
        return None
    return list(dict.fromkeys(str(x) for one in series for x in one.x))


def _short(text: str, most: int) -> str:
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
