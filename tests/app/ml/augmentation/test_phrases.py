"""Phrases that stand in each other's place, mined from rows."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.augmentation.phrases import Phrase, PhraseBook, differing_phrase, find_cut, mine_phrases

THINGS = ("百度包", "云音乐包", "定向包", "来电提醒", "手机报", "权益卡")
WAYS = {"取消方式": ("怎么取消", "如何退订"), "开通方式": ("怎么开通", "在哪里办理"), "价格": ("多少钱", "价格是多少")}
STARTS = ("", "请问", "你告诉我")


def corpus() -> tuple[list[str], list[tuple[str, ...]]]:
    """Every thing, way and start; the answer is that of the thing and what is asked of it."""
    questions, answers = [], []
    for (number, thing), (category, ways), start in product(enumerate(THINGS), WAYS.items(), STARTS):
        for way in ways:
            questions.append(f"{start}{thing}{way}")
            answers.append((f"{category}_{number}",))
    return questions, answers


@pytest.fixture(scope="module")
def book() -> PhraseBook:
    return mine_phrases(*corpus())


def test_what_may_stand_at_the_start_or_not_is_found(book: PhraseBook) -> None:
    assert set(book.starts) == set(STARTS) - {""}


def test_ways_to_ask_the_same_are_exchanged(book: PhraseBook) -> None:
    assert book.exchanges[Phrase("end", "如何退订")] == ("怎么取消",)
    assert book.exchanges[Phrase("end", "多少钱")] == ("价格是多少",)


def test_things_are_never_exchanged_nor_ways_to_ask_something_else(book: PhraseBook) -> None:
    exchanged = {(phrase.text, other) for phrase, others in book.exchanges.items() for other in others}
    assert not any(text in THINGS or other in THINGS for text, other in exchanged)
    assert ("怎么取消", "怎么开通") not in exchanged


def test_rows_with_the_same_value_do_not_make_their_things_alike() -> None:
    # Three prices that two things share speak for an exchange; everything else that differs speaks against it.
    questions = [f"{thing}{size}M多少钱" for size in (1, 2, 3) for thing in ("甲包", "乙包")]
    answers = [(str(size),) for size in (1, 2, 3) for _ in range(2)]
    questions += [f"{thing}{size}M怎么取消" for size in (1, 2, 3) for thing in ("甲包", "乙包")]
    answers += [(f"取消_{number}",) for number in range(6)]
    assert len(mine_phrases(questions, answers)) == 0


def test_numbers_are_never_exchanged() -> None:
    questions = [f"{thing}{price}元怎么取消" for thing in THINGS for price in (5, 8)]
    answers = [(f"取消_{number}",) for number in range(len(THINGS)) for _ in range(2)]
    assert len(mine_phrases(questions, answers)) == 0


@given(seed=st.integers(0, 1000))
def test_an_exchanged_question_asks_the_same(book: PhraseBook, seed: int) -> None:
    questions, answers = corpus()
    answer_of = dict(zip(questions, answers, strict=True))
    chooser = random.Random(seed)
    question = chooser.choice(questions)
    assert answer_of[book.exchanged(question, chooser)] == answer_of[question]


@given(seed=st.integers(0, 1000))
def test_a_choosers_seed_repeats_an_exchange(book: PhraseBook, seed: int) -> None:
    question = corpus()[0][seed % 36]
    assert book.exchanged(question, random.Random(seed)) == book.exchanged(question, random.Random(seed))


def test_a_latin_word_is_never_cut() -> None:
    assert differing_phrase("what is the limit", "what's the limit") == ("inside", " is", "'s")
    assert find_cut("that is so", Phrase("inside", " i")) is None


@settings(max_examples=50)
@given(texts=st.lists(st.text(max_size=20), max_size=12))
def test_any_rows_can_be_mined(texts: list[str]) -> None:
    book = mine_phrases(texts, [(str(len(text) % 3),) for text in texts])
    for text in texts:
        assert "".join(book.parts(text)) == text
        book.exchanged(text, random.Random(0))
