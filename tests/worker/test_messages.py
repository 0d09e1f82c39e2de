import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.messages import (
    Advanced,
    CheckpointWritten,
    Evaluated,
    Finished,
    Message,
    Note,
    Refused,
    Started,
    Stopped,
    decode,
    encode,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
FACTS = st.dictionaries(TEXT, VALUE | st.lists(VALUE, max_size=3) | st.dictionaries(TEXT, VALUE, max_size=3), max_size=4)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Started, FACTS),
    st.builds(Note, TEXT),
    st.builds(Advanced, FACTS),
    st.builds(Evaluated, st.lists(FACTS, max_size=3)),
    st.builds(CheckpointWritten, TEXT, st.integers(), TEXT, FACTS),
    st.builds(Stopped),
    st.builds(Refused, TEXT, TEXT, st.none() | TEXT),
    st.builds(Finished, FACTS),
)


@given(MESSAGES)
def test_a_message_comes_back_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


@given(MESSAGES)
def test_a_message_is_one_line(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


def test_a_number_that_is_none_comes_through() -> None:
    message = decode(encode(Advanced({"loss": math.nan})))
    assert isinstance(message, Advanced)
    assert math.isnan(message.progress["loss"])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"print of a library\n",
        b"{}",
        b'{"kind": "Other"}',
        b'{"kind": "Note"}',
        b'{"kind": "Note", "text": "a", "more": 1}',
        b'{"text": "a"}',
        b"\xff",
        b'{"kind": "Stopped"',
    ],
)
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)
