import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.codes import AnswerGrammar, AnswerState, CodeVocabulary, category_of, join_codes, parse_answer, sorted_codes
from tests.app.ml.strategies import ANSWER, END, grammars, table_encoder

quickly = settings(deadline=None, max_examples=100)


def grammar_of(max_codes: int, separator: tuple[int, ...] = (7,), **tokens: tuple[int, ...]) -> AnswerGrammar:
    vocabulary = CodeVocabulary(tuple(tokens), max_codes)
    return AnswerGrammar(vocabulary, table_encoder({**tokens, "|": separator}), end_id=END)


def walk(grammar: AnswerGrammar, tokens: tuple[int, ...] | list[int]) -> AnswerState:
    """Follows tokens, each of which must be allowed."""
    state = grammar.initial
    for token in tokens:
        assert token in grammar.allowed(state)
        state = grammar.advance(state, token)
    return state


@given(ANSWER)
def test_parsing_gives_back_the_codes_that_were_joined(codes: tuple[str, ...]) -> None:
    assert parse_answer(join_codes(codes)) == codes


def test_blanks_around_codes_are_stripped() -> None:
    assert parse_answer(" 业务简介_111 | 9.9\n") == ("业务简介_111", "9.9")


def test_empty_parts_of_an_answer_are_kept() -> None:
    assert parse_answer("a||b|") == ("a", "", "b", "")


@pytest.mark.parametrize(
    ("code", "category"),
    [
        ("开通方式_98", "开通方式"),
        ("a_b_7", "a_b"),
        ("11.9", "value"),
        ("_5", "value"),
        ("开通方式_", "value"),
        ("x_1a", "value"),
    ],
)
def test_the_category_of_a_code_is_what_stands_before_its_number(code: str, category: str) -> None:
    assert category_of(code) == category


def test_a_vocabulary_keeps_the_order_of_first_use_and_the_longest_answer() -> None:
    assert CodeVocabulary.from_answers([("b", "a"), ("a", "c", "b"), ("b",)]) == CodeVocabulary(("b", "a", "c"), 3)


def test_an_answer_cannot_grow_longer_than_the_vocabulary() -> None:
    assert CodeVocabulary.from_answers([("a", "a", "a")]).max_codes_per_answer == 1


def test_a_vocabulary_of_nothing_has_no_codes() -> None:
    assert CodeVocabulary.from_answers([]) == CodeVocabulary((), 1)


@given(st.lists(ANSWER, min_size=1, max_size=6))
def test_a_vocabulary_holds_every_code_of_its_answers(answers: list[tuple[str, ...]]) -> None:
    vocabulary = CodeVocabulary.from_answers(answers)
    assert all(code in vocabulary for answer in answers for code in answer)


def test_a_vocabulary_holds_no_other_code() -> None:
    assert "b" not in CodeVocabulary(("a",), 1)


@quickly
@given(grammars(), st.data())
def test_every_walk_along_allowed_tokens_ends_in_distinct_known_codes(grammar: AnswerGrammar, data: st.DataObject) -> None:
    state, tokens = grammar.initial, []
    while allowed := grammar.allowed(state):
        assert len(set(allowed)) == len(allowed)
        token = data.draw(st.sampled_from(allowed))
        state = grammar.advance(state, token)
        tokens.append(token)
        assert len(tokens) <= grammar.max_tokens
    codes = grammar.codes_of(state)
    assert state.ended
    assert 1 <= len(codes) == len(set(codes)) <= grammar.vocabulary.max_codes_per_answer
    assert grammar.encode_answer(codes) == tokens


@quickly
@given(grammars(), st.data())
def test_every_valid_answer_is_accepted_and_read_back(grammar: AnswerGrammar, data: st.DataObject) -> None:
    vocabulary = grammar.vocabulary
    codes = data.draw(
        st.lists(st.sampled_from(vocabulary.codes), min_size=1, max_size=vocabulary.max_codes_per_answer, unique=True)
    )
    state = walk(grammar, grammar.encode_answer(codes))
    assert state.ended
    assert grammar.codes_of(state) == tuple(codes)


@quickly
@given(grammars(), st.data())
def test_the_end_may_come_only_where_a_code_ends(grammar: AnswerGrammar, data: st.DataObject) -> None:
    state = grammar.initial
    since_separator: list[int] = []
    while allowed := grammar.allowed(state):
        at_code_end = tuple(since_separator) in grammar.tokens_of_code and not state.separator_left
        code_is_new = at_code_end and grammar.tokens_of_code.index(tuple(since_separator)) not in state.codes
        assert (END in allowed) == code_is_new
        if not state.separator_left and 7 in allowed:
            assert code_is_new
        token = data.draw(st.sampled_from(allowed))
        if state.separator_left or token == 7:
            since_separator = []
        else:
            since_separator.append(token)
        state = grammar.advance(state, token)


def test_a_code_that_is_a_prefix_of_another_can_still_end() -> None:
    grammar = grammar_of(2, short=(1,), long=(1, 2))
    assert sorted(grammar.allowed(walk(grammar, (1,)))) == [END, 2, 7]


def test_a_code_that_was_given_is_not_given_again() -> None:
    grammar = grammar_of(2, short=(1,), long=(1, 2))
    assert grammar.allowed(walk(grammar, (1, 7, 1))) == [2]


def test_no_separator_follows_the_last_possible_code() -> None:
    grammar = grammar_of(5, a=(1,), b=(2,))
    assert grammar.allowed(walk(grammar, (1, 7, 2))) == [END]


def test_a_separator_of_several_tokens_is_written_out() -> None:
    grammar = grammar_of(2, separator=(7, 8, 9), a=(1,), b=(2,))
    assert grammar.allowed(walk(grammar, (1, 7))) == [8]
    assert grammar.codes_of(walk(grammar, (1, 7, 8, 9, 2, END))) == ("a", "b")


def test_nothing_follows_the_end() -> None:
    grammar = grammar_of(1, a=(1,))
    assert grammar.allowed(walk(grammar, (1, END))) == []


@pytest.mark.parametrize("tokens", [(2,), (1, 3), (END,)])
def test_a_token_that_is_not_allowed_is_refused(tokens: tuple[int, ...]) -> None:
    grammar = grammar_of(2, a=(1, 2), b=(1, 4))
    state = grammar.initial
    with pytest.raises(ValueError, match="not allowed"):
        for token in tokens:
            state = grammar.advance(state, token)


@pytest.mark.parametrize(
    ("separator", "tokens", "reason"),
    [
        ((7,), {}, "at least one code"),
        ((7,), {"a": ()}, "has no tokens"),
        ((), {"a": (1,)}, "separator has no tokens"),
        ((7,), {"a": (1,), "b": (1,)}, "the same tokens"),
    ],
)
def test_a_grammar_that_cannot_be_is_refused(separator: tuple[int, ...], tokens: dict[str, tuple[int, ...]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        grammar_of(1, separator, **tokens)


@pytest.mark.parametrize("ambiguous", [(1, 7), (1, 7, 2), (1, END), (1, END, 2)])
def test_a_code_that_goes_on_with_the_separator_or_the_end_is_refused(ambiguous: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="goes on with the token"):
        grammar_of(2, a=(1,), b=(2,), c=ambiguous)


def test_the_separators_token_may_stand_where_no_code_ends() -> None:
    grammar = grammar_of(2, a=(1, 7, 2), b=(7, 3))
    state = walk(grammar, grammar.encode_answer(["b", "a"]))
    assert grammar.codes_of(state) == ("b", "a")


def test_a_code_of_200_rare_characters_is_no_deeper_than_python_goes() -> None:
    code = "𠮷" * 200
    grammar = AnswerGrammar(CodeVocabulary((code,), 1), lambda text: list(text.encode()), end_id=256)
    assert grammar.codes_of(walk(grammar, grammar.encode_answer([code]))) == (code,)


@given(codes=ANSWER)
def test_sorted_codes_do_not_depend_on_the_files_order(codes: tuple[str, ...]) -> None:
    assert sorted_codes(codes) == sorted_codes(codes[::-1])
    assert sorted(sorted_codes(codes)) == sorted(codes)


def test_numbers_in_codes_are_sorted_by_value() -> None:
    assert sorted_codes(["开通方式_10", "9.9", "开通方式_9", "11.9"]) == ("9.9", "11.9", "开通方式_9", "开通方式_10")
