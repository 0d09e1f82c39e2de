import re

from hypothesis import given
from hypothesis import strategies as st

from app.ml.answer_patterns import answer_gbnf, answer_regex
from app.ml.codes import CodeVocabulary, join_codes
from tests.app.ml.strategies import CODE

VOCABULARY = CodeVocabulary(("业务简介_111", "9.9", "11.9"), 2)


@st.composite
def vocabularies(draw: st.DrawFn) -> CodeVocabulary:
    codes = tuple(draw(st.lists(CODE, min_size=1, max_size=6, unique=True)))
    return CodeVocabulary(codes, draw(st.integers(1, len(codes))))


@given(vocabularies(), st.data())
def test_a_regex_matches_every_valid_answer(vocabulary: CodeVocabulary, data: st.DataObject) -> None:
    size = vocabulary.max_codes_per_answer
    codes = data.draw(st.lists(st.sampled_from(vocabulary.codes), min_size=1, max_size=size, unique=True))

    assert re.fullmatch(answer_regex(vocabulary, "closed"), join_codes(codes))
    assert re.fullmatch(answer_regex(vocabulary, "open_values"), join_codes(codes))


@given(vocabularies(), st.lists(CODE, min_size=1, max_size=7))
def test_a_closed_regex_matches_nothing_but_codes_of_the_vocabulary(vocabulary: CodeVocabulary, codes: list[str]) -> None:
    valid = len(codes) <= vocabulary.max_codes_per_answer and all(code in vocabulary for code in codes)

    assert bool(re.fullmatch(answer_regex(vocabulary, "closed"), join_codes(codes))) == valid


def test_a_code_is_no_pattern() -> None:
    regex = answer_regex(CodeVocabulary(("9.9", "a+b", r"c\d", "(x)", "[y]", "{1}", "^$", "?*"), 1), "closed")

    assert re.fullmatch(regex, "9.9")
    assert not any(re.fullmatch(regex, text) for text in ("919", "aab", "c7", "x", "y", "", "?"))


def test_an_answer_ends_with_a_code() -> None:
    regex = answer_regex(VOCABULARY, "closed")

    assert not any(
        re.fullmatch(regex, text) for text in ("", "9.9|", "|9.9", "9.9||11.9", "9.9|11.9|业务简介_111", "业务简介_11")
    )


def test_open_values_allow_new_values_of_the_known_values_characters_but_no_new_code() -> None:
    regex = answer_regex(VOCABULARY, "open_values")

    assert re.fullmatch(regex, "业务简介_111|19.1")
    assert not any(re.fullmatch(regex, text) for text in ("业务简介_9", "12.5", "11.99"))


def test_without_values_open_values_is_closed() -> None:
    vocabulary = CodeVocabulary(("a_1", "b_2"), 2)

    assert answer_regex(vocabulary, "open_values") == answer_regex(vocabulary, "closed")


def test_a_regex_uses_no_syntax_that_an_engine_may_lack() -> None:
    assert answer_regex(VOCABULARY, "closed") == r"(业务简介_111|9\.9|11\.9)(\|(业务简介_111|9\.9|11\.9)){0,1}"


def test_a_grammar_names_each_code_once() -> None:
    assert answer_gbnf(VOCABULARY, "closed") == ('root ::= code ("|" code){0,1}\ncode ::= ("业务简介_111"|"9.9"|"11.9")\n')


def test_a_grammar_escapes_what_its_strings_cannot_hold() -> None:
    grammar = answer_gbnf(CodeVocabulary(('say "x"\\\n\x01',), 1), "closed")

    assert grammar == 'root ::= code\ncode ::= ("say \\"x\\"\\\\\\n\\x01")\n'


def test_a_grammar_of_open_values_repeats_their_characters() -> None:
    assert answer_gbnf(VOCABULARY, "open_values").endswith('("."|"1"|"9"){1,4})\n')
