"""Hypothesis strategies that several test modules share."""

from collections.abc import Callable

from hypothesis import strategies as st

from app.ml.codes import SEPARATOR, AnswerGrammar, CodeVocabulary

END = 0
# What PostgreSQL and UTF-8 can hold, without the separator; blanks at an end are stripped by the readers.
PLAIN_TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=12)
CODE = PLAIN_TEXT.map(lambda text: text.replace(SEPARATOR, "").strip()).filter(bool)
ANSWER = st.lists(CODE, min_size=1, max_size=4, unique=True).map(tuple)


def table_encoder(tokens_of: dict[str, tuple[int, ...]]) -> Callable[[str], tuple[int, ...]]:
    return lambda text: tokens_of[text]


@st.composite
def grammars(draw: st.DrawFn) -> AnswerGrammar:
    """Grammars over few distinct tokens, so that many codes are prefixes of others; token 0 ends, 7 begins the separator."""
    sequences = draw(
        st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple), min_size=1, max_size=8, unique=True)
    )
    separator = draw(st.sampled_from([(7,), (7, 7), (7, 1), (7, 1, 2, 7)]))
    codes = tuple(f"code_{number}" for number in range(len(sequences)))
    vocabulary = CodeVocabulary(codes, draw(st.integers(1, len(codes))))
    return AnswerGrammar(
        vocabulary, table_encoder({**dict(zip(codes, sequences, strict=True)), SEPARATOR: separator}), end_id=END
    )
