"""Neighbours by what a question's characters say of the answer's codes."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.codes import CodeVocabulary
from app.ml.engine.answer_shapes import AnswerShapes, shape_of
from app.ml.engine.ngrams import ngrams_of
from app.ml.engine.question_index import QuestionIndex, find_question_index
from app.ml.engine.solved_questions import SolvedQuestions
from app.ml.prompting import SolvedQuestion
from app.ml.spec import NeighboursBy

PRODUCTS = "百度网易腾讯美团京东快手星光惠民沃玩任我看极速畅享悦读青春欢聚和家"
# What a shape of codes is asked for with, in two ways that share no character.
WAYS = {"取消方式": ("怎么退订", "我不想要了"), "开通方式": ("如何办理", "在哪里开"), "适用范围": ("全国能用吗", "哪些地方可以")}
ROWS = st.lists(
    st.tuples(
        st.text(min_size=1, max_size=30),
        st.lists(st.sampled_from(("取消方式_1", "取消方式_2", "9.9", "10G")), min_size=1, max_size=2, unique=True),
    ),
    min_size=1,
    max_size=20,
)


def rows_and_questions() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Each product is asked for each shape in one way; the questions ask in the other way."""
    rows, questions = [], []
    for number in range(0, len(PRODUCTS) - 1, 2):
        for place, (category, ways) in enumerate(WAYS.items()):
            product, way = PRODUCTS[number : number + 2] + "包", (number // 2 + place) % 2
            rows.append((product + ways[way], f"{category}_{number}"))
            questions.append((product + ways[1 - way], f"{category}_{number}"))
    return rows, questions


def index_of(rows: Sequence[tuple[str, Sequence[str]]]) -> tuple[QuestionIndex, CodeVocabulary]:
    answers = [tuple(codes) for _, codes in rows]
    vocabulary = CodeVocabulary.from_answers(answers)
    return QuestionIndex.build([question for question, _ in rows], answers, vocabulary=vocabulary, keeps_texts=True), vocabulary


def share_found_first(by: NeighboursBy) -> float:
    rows, questions = rows_and_questions()
    index, vocabulary = index_of([(question, (code,)) for question, code in rows])
    solved = SolvedQuestions(index, vocabulary, by)
    return float(np.mean([solved.nearest_solved(question, 1)[0].codes == (code,) for question, code in questions]))


@pytest.mark.parametrize(
    ("code", "shape"), [("取消方式_59", "取消方式_0"), ("9.9", "0"), ("1.5G", "0G"), ("card_arrival", "card_arrival"), ("", "")]
)
def test_the_shape_of_a_code_is_the_code_without_its_numbers(code: str, shape: str) -> None:
    assert shape_of(code) == shape


def test_a_products_answer_of_the_shape_asked_for_is_found_however_it_was_asked_for() -> None:
    assert share_found_first("answers") > 0.9
    assert share_found_first("text") < 0.5


def test_what_leads_to_like_answers_weighs_more_than_what_does_not() -> None:
    rows, _ = rows_and_questions()
    index, vocabulary = index_of(
        [(question + "呀吗"[place % 2], (code.split("_")[0],)) for place, (question, code) in enumerate(rows)]
    )
    weight_of = dict(zip(index.hashes.tolist(), AnswerShapes.of(index, vocabulary.codes).weights, strict=True))
    telling, idle = (weight_of[int(ngrams_of(char, 2)[0])] for char in "退呀")
    assert telling > idle >= 0


def test_a_question_that_is_left_out_does_not_speak_for_its_own_answer() -> None:
    rows, _ = rows_and_questions()
    index, vocabulary = index_of([*((question, (code,)) for question, code in rows), ("百度包魑魅魍魉", ("赠送规则_1",))])
    shapes, ngrams = AnswerShapes.of(index, vocabulary.codes), ngrams_of("百度包魑魅魍魉", 2)
    assert index.texts is not None
    own = index.texts.index("百度包魑魅魍魉")
    answer = int(index.answer_of_document[own])
    assert shapes.answer_terms(ngrams, -1)[answer] > 0.15
    assert shapes.answer_terms(ngrams, own)[answer] < 0.05


def test_as_many_answers_are_shown_to_a_training_row_as_to_any_other() -> None:
    rows, _ = rows_and_questions()
    index, vocabulary = index_of([(question, (code,)) for question, code in rows])
    solved = SolvedQuestions(index, vocabulary, "answers")
    for question, code in rows[:9]:
        shown = solved.nearest_solved(question, 3, own=SolvedQuestion(question, (code,)))
        assert len(shown) == 3
        assert question not in [one.question for one in shown]


@given(rows=ROWS, asked=st.text(max_size=40), count=st.integers(1, 8))
def test_any_text_can_be_asked_and_indexed(rows: list[tuple[str, list[str]]], asked: str, count: int) -> None:
    index, vocabulary = index_of(rows)
    shapes = AnswerShapes.of(index, vocabulary.codes)
    terms = shapes.answer_terms(ngrams_of(asked, 2), -1)
    assert all(math.isfinite(term) and 0 <= term <= 0.2 + 1e-9 for term in terms)
    assert np.isfinite(shapes.weights).all() and (shapes.weights >= 0).all()
    found = SolvedQuestions(index, vocabulary, "answers").nearest_solved(asked, count)
    assert len({one.codes for one in found}) == len(found) <= count


def test_an_index_of_nothing_finds_nothing() -> None:
    index, vocabulary = index_of([])
    assert SolvedQuestions(index, vocabulary, "answers").nearest_solved("百度", 3) == []


def test_shapes_beyond_the_most_frequent_have_no_say() -> None:
    rows = [(f"{chr(0x4E00 + number)}问", (f"{chr(0x5E00 + number)}",)) for number in range(300)]
    index, vocabulary = index_of(rows)
    shapes = AnswerShapes.of(index, vocabulary.codes)
    assert len(shapes.shape_counts) == 256
    assert (np.diff(shapes.shape_starts) == 0).sum() == 300 - 256
    assert SolvedQuestions(index, vocabulary, "answers").nearest_solved(rows[-1][0], 1)[0].codes == rows[-1][1]


def test_an_index_that_was_saved_ranks_as_before(tmp_path: Path) -> None:
    rows, questions = rows_and_questions()
    index, vocabulary = index_of([(question, (code,)) for question, code in rows])
    index.save(tmp_path)
    loaded = find_question_index(tmp_path)
    assert loaded is not None
    one, other = SolvedQuestions(index, vocabulary, "answers"), SolvedQuestions(loaded, vocabulary, "answers")
    assert [one.nearest_solved(q, 5) for q, _ in questions] == [other.nearest_solved(q, 5) for q, _ in questions]
