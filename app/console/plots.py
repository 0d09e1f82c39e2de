"""What a page plots, as data: drawn on the server as SVG (`drawing`) and made live in the browser by plotly."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

_MAX_POINTS = 1_500


@dataclass(frozen=True)
class Series:
    """One line or one row of bars; bars may have an interval (`low`, `high`), in the y axis's unit."""

    name: str
    x: tuple[Any, ...]
    y: tuple[float, ...]
    kind: Literal["line", "faint", "dots", "bars"] = "line"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot with its axes; `across` lays bars down, so that long names can be read."""

    key: str
    """Unique in its page."""
    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    across: bool = False
    y_percent: bool = False
    x_percent: bool = False
    y_from_zero: bool = True
    live: str = ""
    """`loss`: the page's script adds points as they come."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return all(not one.x for one in self.series)

    def to_json(self) -> str:
        """Returns what the page's script reads."""
        return orjson.dumps(asdict(self)).decode()


def loss_plot(points: Sequence[Mapping[str, Any]], words: Any, *, is_live: bool) -> Plot:
    """Plots the loss a step with a running mean over a twentieth of the run."""
    points = _thinned(points)
    steps = tuple(point["step"] for point in points)
    losses = tuple(float(point["loss"]) for point in points)
    return Plot(
        key="loss",
        title=words("plot.loss"),
        x_title=words("plot.step"),
        y_title=words("plot.loss_unit"),
        series=(
            Series(words("plot.loss_mean"), steps, tuple(running_mean(losses))),
            Series(words("plot.loss_step"), steps, losses, "faint"),
        ),
        live="loss" if is_live else "",
    )


def bars(key: str, title: str, counts: Sequence[tuple[str, float]], *, x_title: str, name: str, is_percent: bool = False) -> Plot:
    """Plots numbers of names as bars that lie, in the order given."""
    series = Series(name, tuple(label for label, _ in counts), tuple(float(count) for _, count in counts), "bars")
    return Plot(key=key, title=title, x_title=x_title, y_title="", series=(series,), across=True, y_percent=is_percent)


def running_mean(values: Sequence[float]) -> list[float]:
    """Returns the mean of the last twentieth at each place."""
    window = max(1, len(values) // 20)
    means, total = [], 0.0
    for place, value in enumerate(values):
        total += value - (values[place - window] if place >= window else 0.0)
        means.append(total / min(place + 1, window))
    return means


def _thinned(points: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Keeps the first, the last, and evenly spread points between: a screen shows no more."""
    if len(points) <= _MAX_POINTS:
        return points
    return [points[number * (len(points) - 1) // (_MAX_POINTS - 1)] for number in range(_MAX_POINTS)]


def confidence_plot(confidences: Sequence[float], words: Any) -> Plot:
    """Plots how many answers lie in each tenth of confidence."""
    counts = [0] * 10
    for confidence in confidences:
        counts[min(9, max(0, int(confidence * 10)))] += 1
    names = tuple(f"{10 * tenth}–{10 * tenth + 10}%" for tenth in range(10)) if confidences else ()
    series = Series(words("plot.answers"), names, tuple(float(count) for count in counts) if confidences else (), "bars")
    return Plot(
        key="confidence",
        title=words("plot.confidence", n=len(confidences)),
        x_title=words("evaluation.confidence"),
        y_title="",
        series=(series,),
    )
