import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.datasets.service import display_name


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("rows.json", "rows.json"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\rows.json", "rows.json"),
        ("/abs/rows.json", "rows.json"),
        ("a\x00b\n.json", "ab.json"),
        ("\u202egpj.json", "gpj.json"),
        ("e\u0301.json", "\u00e9.json"),
        ("数据.json", "数据.json"),
        ("", "file"),
        ("..\\", "file"),
        ("\ud800.json", "?.json"),
    ],
)
def test_a_name_is_only_text_to_show(given_name: str, shown: str) -> None:
    assert display_name(given_name) == shown


def test_a_long_name_is_cut_to_200_characters() -> None:
    assert display_name("长" * 1000) == "长" * 200


@given(st.text(st.characters()))
def test_whatever_the_name_it_can_be_stored_and_shown(name: str) -> None:
    shown = display_name(name)

    shown.encode()
    assert 1 <= len(shown) <= 200
    assert "/" not in shown and not any(unicodedata.category(char).startswith("C") for char in shown)
