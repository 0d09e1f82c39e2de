from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.codes import AnswerGrammar
from app.ml.engine.choices import ChoiceTable
from app.ml.errors import NothingToTrain
from tests.app.ml.strategies import END, grammars
from tests.app.ml.test_codes import grammar_of


def by_hand(grammar: AnswerGrammar, answer: list[int]) -> list[tuple[int, int, set[int]]]:
    """Place, token and allowed tokens of each place where more than one token is allowed."""
    state, found = grammar.initial, []
    for place, token in enumerate(answer):
        allowed = grammar.allowed(state)
        if len(allowed) > 1:
            found.append((place, token, set(allowed)))
        state = grammar.advance(state, token)
    return found


def by_table(table: ChoiceTable, answer: list[int]) -> list[tuple[int, int, set[int]]]:
    choices = table.of(tuple(answer))
    menus = table.allowed(choices.menus)
    assert menus.shape == (len(choices.places), len(table.tokens))
    return [
        (place, table.tokens[label], {table.tokens[column] for column in menu.nonzero().flatten().tolist()})
        for place, label, menu in zip(choices.places, choices.labels, menus, strict=True)
    ]


@settings(deadline=None, max_examples=100)
@given(grammars(), st.data())
def test_an_answers_choices_are_the_places_where_the_grammar_allows_several_tokens(grammar: AnswerGrammar, data: Any) -> None:
    codes = grammar.vocabulary.codes
    if len(codes) == 1:
        return
    table = ChoiceTable(grammar)
    for _ in range(3):
        said = data.draw(
            st.lists(st.sampled_from(codes), unique=True, min_size=1, max_size=grammar.vocabulary.max_codes_per_answer)
        )
        answer = grammar.encode_answer(said)
        assert by_table(table, answer) == by_hand(grammar, answer)


def test_forced_tokens_are_no_choices() -> None:
    grammar = grammar_of(1, stop_1=(1, 2, 3), stop_2=(1, 2, 4))
    assert by_table(ChoiceTable(grammar), [1, 2, 4, END]) == [(2, 4, {3, 4})]


def test_a_code_that_was_said_is_no_longer_on_the_menu() -> None:
    grammar = grammar_of(3, a=(1,), b=(2,), c=(3,))
    table = ChoiceTable(grammar)
    assert [menu for _, _, menu in by_table(table, [1, 7, 2, END])] == [{1, 2, 3}, {7, END}, {2, 3}, {7, END}]


def test_after_as_many_codes_as_an_answer_may_have_its_end_is_forced() -> None:
    grammar = grammar_of(2, a=(1,), b=(2,), c=(3,))
    assert [place for place, _, _ in by_table(ChoiceTable(grammar), [1, 7, 2, END])] == [0, 1, 2]


def test_a_code_that_begins_another_competes_with_it() -> None:
    grammar = grammar_of(1, x_1=(5, 1), x_11=(5, 1, 1))
    assert by_table(ChoiceTable(grammar), [5, 1, END]) == [(2, END, {1, END})]


@pytest.mark.parametrize("answer", [(1,), (9, END), (1, END, 1), (1, 7, END), (1, 7, 1, END), (1, 7, 2, 7, 3, END)])
def test_an_answer_that_cannot_be_said_is_not_found(answer: tuple[int, ...]) -> None:
    table = ChoiceTable(grammar_of(2, a=(1,), b=(2,), c=(3,)))
    assert table.find(answer) is None
    with pytest.raises(ValueError, match="cannot say"):
        table.of(answer)


def test_a_separator_of_several_tokens_is_followed() -> None:
    table = ChoiceTable(grammar_of(2, separator=(7, 8), a=(1,), b=(2,)))
    assert [place for place, _, _ in by_table(table, [1, 7, 8, 2, END])] == [0, 1]
    assert table.find((1, 7, 2, END)) is None


def test_where_there_is_but_one_answer_there_is_nothing_to_learn() -> None:
    with pytest.raises(NothingToTrain):
        ChoiceTable(grammar_of(1, a=(1, 2)))
