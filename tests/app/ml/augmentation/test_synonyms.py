"""Words that may stand for each other: a job's own, and the product's lists."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.augmentation.synonyms import SynonymBook, read_word_list, uncontradicted, words_in
from app.ml.spec import resolve_spec
from app.ml.spec_values import MAX_SYNONYM_CHARS, MAX_SYNONYM_GROUPS, MAX_SYNONYMS, WORD_LISTS

WORDS = st.text(st.sampled_from("怎么如何退订取消 ab1"), min_size=1, max_size=4)
BOOK = SynonymBook.of((("怎么", "如何", "咋"), ("取消", "退订")))


def said(book: SynonymBook, question: str) -> set[str]:
    return {book.exchanged(question, random.Random(seed)) for seed in range(40)}


def test_a_word_is_exchanged_within_its_group() -> None:
    assert said(BOOK, "请问怎么办") == {"请问如何办", "请问咋办"}


def test_a_question_without_the_words_stays() -> None:
    assert said(BOOK, "多少钱") == {"多少钱"}


def test_of_words_that_hold_each_other_the_longest_is_exchanged() -> None:
    assert said(SynonymBook.of((("办", "开"), ("办理", "开通"))), "怎么办理") == {"怎么开通"}


def test_a_word_of_two_groups_becomes_a_word_of_either() -> None:
    assert said(SynonymBook.of((("退", "取消"), ("退", "返还"))), "退钱") == {"取消钱", "返还钱"}


@given(
    groups=st.lists(st.lists(WORDS, min_size=2, max_size=4, unique=True), max_size=4),
    text=st.text("怎么如何退订取消 ab1", max_size=12),
)
def test_one_word_at_most_changes_and_only_to_another_of_its_group(groups: list[list[str]], text: str) -> None:
    book = SynonymBook.of(groups)
    changed = book.exchanged(text, random.Random(0))
    may_be = {text.replace(word, other, 1) for word in words_in(text, book.others_of) for other in book.others_of[word]}
    assert changed in may_be or (not may_be and changed == text)


def test_rows_speak_against_a_group_whose_words_ask_for_different_codes() -> None:
    groups = (("怎么退订", "怎么取消"), ("多少钱", "什么价格"))
    questions = ["语音包怎么退订", "语音包怎么取消", "流量包怎么退订", "流量包怎么取消", "语音包多少钱", "语音包什么价格"]
    answers = [["a"], ["b"], ["c"], ["d"], ["5", "9"], ["5"]]
    assert uncontradicted(groups, questions, answers) == (("多少钱", "什么价格"),)


def test_a_group_that_no_row_speaks_of_stays() -> None:
    groups = (("怎么退订", "怎么取消"),)
    assert uncontradicted(groups, ["语音包怎么退订", "流量包怎么取消"], [["a"], ["b"]]) == groups


@pytest.mark.parametrize("name", WORD_LISTS)
def test_a_list_is_what_a_job_could_have_brought_itself(name: str) -> None:
    groups = read_word_list(name)
    assert len(groups) <= MAX_SYNONYM_GROUPS
    for group in groups:
        assert 2 <= len(group) == len(set(group)) <= MAX_SYNONYMS, group
        assert all(0 < len(word.strip()) <= len(word) <= MAX_SYNONYM_CHARS for word in group), group
    words = [word for group in groups for word in group]
    assert len(words) == len(set(words)), "a word of two groups means two things"
    resolve_spec({"preset": "quick", "synonyms": [list(group) for group in groups]})
