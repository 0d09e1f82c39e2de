import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.experiments.charts import IntervalPoint, Series, interval_chart, line_chart

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
SERIES = st.lists(st.builds(Series, st.text(max_size=40), st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5)), max_size=8)


@given(SERIES)
def test_any_lines_make_a_picture_in_which_everything_lies_inside(series: list[Series]) -> None:
    clean = [Series("".join(char for char in one.label if char.isprintable()), one.points) for one in series]
    text = line_chart(clean, title="t", x_label="x", y_label="y")
    if not any(one.points for one in series):
        assert text == ""
        return
    root = ET.fromstring(text)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for line in root.iter("polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert -0.1 <= x <= width + 0.1
            assert -0.1 <= y <= height + 0.1


def test_every_point_has_its_value_and_its_full_name() -> None:
    text = interval_chart([IntervalPoint("一个很长的名字" * 9, 0.875, 0.8, 0.9)], title="完全匹配")
    root = ET.fromstring(text)
    assert root.attrib["aria-label"] == "完全匹配"
    words = [element.text for element in root.iter()]
    assert "0.875" in words
    assert "一个很长的名字" * 9 in words


@pytest.mark.parametrize("label", ["<b>&", '"'])
def test_names_are_escaped(label: str) -> None:
    assert ET.fromstring(interval_chart([IntervalPoint(label, 0.5, 0.4, 0.6)], title=label)) is not None
