import json
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from app.console.drawing import draw, ticks
from app.console.plots import Plot, Series, loss_plot, running_mean
from app.console.words import Words

NUMBERS = st.floats(min_value=0, max_value=1e9, allow_nan=False)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_and_within(low: float, span: float) -> None:
    found = ticks(low, low + span)

    assert 1 <= len(found) <= 7
    assert all(low - span * 1e-6 - 1e-6 <= tick <= low + span * (1 + 1e-6) + 1e-6 for tick in found)


@given(st.lists(NUMBERS, min_size=1, max_size=60))
def test_any_losses_make_a_drawing_that_is_xml(losses: list[float]) -> None:
    points = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]

    ElementTree.fromstring(draw(loss_plot(points, Words("en"), is_live=False)))


@given(
    st.lists(st.tuples(st.text(alphabet="<>&\"'a中", max_size=9), NUMBERS), min_size=1, max_size=9, unique_by=lambda one: one[0])
)
def test_names_in_bars_are_text_whatever_they_hold(counts: list[tuple[str, float]]) -> None:
    series = Series("<b>", tuple(name for name, _ in counts), tuple(count for _, count in counts), "bars")

    for across in (True, False):
        drawing = draw(Plot(key="k", title="<t>", x_title="<x>", y_title="", series=(series,), across=across))
        ElementTree.fromstring(drawing)


def test_a_bar_is_as_long_as_its_number() -> None:
    series = Series("rows", ("a", "b"), (10.0, 5.0), "bars")

    drawing = draw(Plot(key="k", title="t", x_title="", y_title="", series=(series,), across=True))

    first, second = (float(width) for width in re.findall(r'<rect [^>]* width="([\d.]+)"', drawing))
    assert first == 2 * second


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_a_running_mean_is_the_mean_of_the_last_twentieth(values: list[float]) -> None:
    window = max(1, len(values) // 20)
    part = values[-window:]

    assert abs(running_mean(values)[-1] - sum(part) / len(part)) < 1e-6


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    points = [{"step": step, "loss": 1.0} for step in range(1, 20_001)]

    steps = json.loads(loss_plot(points, Words("en"), is_live=True).to_json())["series"][0]["x"]

    assert (steps[0], steps[-1]) == (1, 20_000)
    assert len(steps) <= 1_500
