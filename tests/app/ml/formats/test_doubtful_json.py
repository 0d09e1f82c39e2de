"""JSON that parsers take without a word, and that means something else than its author thought, or costs too much."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.errors import DatasetFormatError
from app.ml.formats.example import RowError
from app.ml.formats.repeated_names import find_repeated_name
from app.ml.formats.watched_json import MAX_TEXT_BYTES, WatchedJson
from tests.app.ml.formats.tables import pairs, read

_PIECES = ["\\ud83d", "\\ude00", "\\\\", '\\"', "ud83d", "a", "\\u4e2d", "\\n", "\\\\ud800", "\\uDFFF"]

_PIECE_BYTES = 65_536


def _is_let_through(text: bytes, size: int) -> bool:
    watched = WatchedJson(io.BytesIO(text))
    try:
        while watched.read(size):
            pass
    except ValueError:
        return False
    return True


@given(st.lists(st.sampled_from(_PIECES), max_size=8), st.integers(1, 12))
def test_half_of_a_surrogate_pair_is_seen_wherever_the_pieces_are_cut(pieces: list[str], size: int) -> None:
    text = f'"{"".join(pieces)}"'
    try:
        json.loads(text).encode()
    except UnicodeEncodeError:
        is_whole = False
    else:
        is_whole = True

    assert _is_let_through(text.encode(), size) == is_whole


@pytest.mark.parametrize("filling", [b"a", b'\\"', b"\\\\", "字".encode(), b"1"])
@pytest.mark.parametrize(("more", "is_let_through"), [(-1_000, True), (_PIECE_BYTES + 1_000, False)])
def test_a_text_of_an_array_has_at_most_1_mib_and_a_piece_whatever_it_holds(
    filling: bytes, more: int, is_let_through: bool
) -> None:
    text = b'["' + filling * ((MAX_TEXT_BYTES + more) // len(filling)) + b'", "' + b"b" * 500_000 + b'"]'

    assert _is_let_through(text, _PIECE_BYTES) == is_let_through


def test_an_array_of_escaped_pairs_is_read() -> None:
    rows, _ = read(b'[{"instruction": "\\ud83d\\ude00 a", "output": "a_1"}]', "a.json")

    assert pairs(rows) == [("\U0001f600 a", ("a_1",))]


def test_half_of_a_pair_in_an_array_is_no_question_mark() -> None:
    with pytest.raises(DatasetFormatError, match="half of a surrogate pair"):
        read(b'[{"instruction": "a\\ud83d", "output": "a_1"}]', "a.json")


@pytest.mark.parametrize("inner", ["%s", '{"x": %s}', "[1, %s]"])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "a"),
        ('{"a": 1, "\\u0061": 2}', "a"),
        ('{"a": 1, "b": {"a": 2}, "c": ["a", "a"]}', None),
        ('{"a": "\\"a\\": 1, \\"a\\": 2"}', None),
        ('{"a": 1, "a"', None),
        ("[" * 100_000, None),
        ('{"a": ' + "9" * 5_000 + ', "a": 1}', None),
    ],
)
def test_a_name_that_stands_in_one_object_twice_is_found(text: str, name: str | None, inner: str) -> None:
    assert find_repeated_name((inner % text).encode()) == name


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_only_the_row_that_has_a_name_twice_is_wrong(name: str) -> None:
    rows = ['{"instruction": "q", "output": "a_1"}', '{"instruction": "q", "output": "a_1", "output": "a_2"}'] * 2
    data = f"[{','.join(rows)}]" if name == "a.json" else "\n".join(rows)

    found, _ = read(data.encode(), name)

    assert [(row.row, row.field) for row in found if isinstance(row, RowError)] == [(2, "output"), (4, "output")]
