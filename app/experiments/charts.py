"""Plots as SVG text: they need no script, scale to any width, and take the page's colours for light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's eight, without black and yellow: told apart by most eyes, on white and on dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "7 4", "2 3", "9 3 2 3")
_WIDTH, _ROW, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 30, 190, 58, 16, 40
_PLOT_HEIGHT = 230
_LABEL_CHARS = 25
_LEAST_SPAN = 1e-6


@dataclass(frozen=True)
class IntervalPoint:
    """A rate in 0..1 with its interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """A named line."""

    label: str
    points: Sequence[tuple[float, float]]


def interval_chart(points: Sequence[IntervalPoint], *, title: str) -> str:
    """Returns one line a point: a dot for the value, a bar for its interval, the number beside."""
    height = _TOP + _ROW * len(points) + _BOTTOM

    def x(value: float) -> float:
        return _LEFT + value * (_WIDTH - _LEFT - _RIGHT)

    parts = [_grid_line(x(tick), _TOP, x(tick), height - _BOTTOM) for tick in (0, 0.25, 0.5, 0.75, 1)]
    parts += [_text(x(tick), height - _BOTTOM + 18, f"{tick:g}", "middle") for tick in (0, 0.25, 0.5, 0.75, 1)]
    for place, point in enumerate(points):
        y, colour = _TOP + _ROW * (place + 0.5), COLOURS[0]
        parts += [
            _text(_LEFT - 10, y + 4, _short(point.label), "end", full=point.label),
            f'<line x1="{x(point.low):.1f}" x2="{x(point.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="5" '
            'stroke-opacity="0.4" stroke-linecap="round"/>',
            f'<circle cx="{x(point.value):.1f}" cy="{y}" r="5" fill="{colour}"/>',
            _text(_WIDTH - _RIGHT + 12, y + 4, f"{point.value:.3f}", "start"),
        ]
    return _svg(height, title, parts)


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> str:
    """Returns lines over one another with a legend beneath; told apart by colour and by dashes."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    legend = 20 * math.ceil(len(drawn) / 2)
    height, left = _TOP + _PLOT_HEIGHT + _BOTTOM + legend, 60
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(0.0, *ys), max(ys))
    x = _scale((x_ticks[0], x_ticks[-1]), (left, _WIDTH - 20))
    y = _scale((y_ticks[0], y_ticks[-1]), (_TOP + _PLOT_HEIGHT, _TOP))
    parts = [_grid_line(left, y(tick), _WIDTH - 20, y(tick)) for tick in y_ticks]
    parts += [_text(left - 8, y(tick) + 4, f"{tick:g}", "end") for tick in y_ticks]
    parts += [_text(x(tick), _TOP + _PLOT_HEIGHT + 17, f"{tick:g}", "middle") for tick in x_ticks]
    parts.append(_text((left + _WIDTH - 20) / 2, _TOP + _PLOT_HEIGHT + 34, x_label, "middle"))
    parts.append(_text(left, _TOP - 3, y_label, "start"))
    for place, one in enumerate(drawn):
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]
        style = f'stroke="{colour}" stroke-width="2" fill="none" stroke-dasharray="{dash}"'
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in one.points)
        parts.append(f'<polyline points="{path}" {style}/>')
        column, line = place % 2, place // 2
        start, base = left + column * 250, _TOP + _PLOT_HEIGHT + _BOTTOM + 8 + 20 * line
        parts.append(f'<line x1="{start}" x2="{start + 26}" y1="{base}" y2="{base}" {style}/>')
        parts.append(_text(start + 34, base + 4, _short(one.label, 28), "start", full=one.label))
        if len(one.points) == 1:
            parts.append(f'<circle cx="{x(one.points[0][0]):.1f}" cy="{y(one.points[0][1]):.1f}" r="3" fill="{colour}"/>')
    return _svg(height, title, parts)


def _scale(values: tuple[float, float], places: tuple[float, float]) -> Callable[[float], float]:
    (low, high), (start, end) = values, places
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Returns four to nine round numbers that hold both ends."""
    size = max(1.0, abs(low), abs(high))
    # What differs less than this lies on one line.
    span = high - low if high - low > _LEAST_SPAN * size else size
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _short(label: str, chars: int = _LABEL_CHARS) -> str:
    return label if len(label) <= chars else f"{label[: chars - 1]}…"


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" stroke-opacity="0.15"/>'


def _text(x: float, y: float, text: str, anchor: str, *, full: str | None = None) -> str:
    tip = f"<title>{escape(full)}</title>" if full is not None and full != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" font-size="13">{tip}{escape(text)}</text>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    name = escape(title, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
