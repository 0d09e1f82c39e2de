"""The index of training questions."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from app.ml.codes import CodeVocabulary
from app.ml.engine.question_index import MAX_INDEXED_QUESTIONS, QUESTIONS, QuestionIndex, find_question_index

VOCABULARY = CodeVocabulary(("取消方式_1", "开通方式_2", "9.9", "11.9"), 2)
QUESTIONS_ASKED = ("百度流量月包怎么取消", "百度流量月包怎么开通", "爱奇艺会员包多少钱", "how do I stop plan A")
ANSWERS = (("取消方式_1",), ("开通方式_2", "9.9"), ("9.9",), ("取消方式_1",))
ROWS = st.lists(
    st.tuples(st.text(min_size=1, max_size=30), st.lists(st.sampled_from(VOCABULARY.codes), min_size=1, max_size=2, unique=True)),
    min_size=1,
    max_size=20,
)


def built(questions: tuple[str, ...] = QUESTIONS_ASKED, answers: tuple[tuple[str, ...], ...] = ANSWERS) -> QuestionIndex:
    return QuestionIndex.build(questions, answers, vocabulary=VOCABULARY)


def codes_of(index: QuestionIndex, answer: int) -> tuple[str, ...]:
    return tuple(VOCABULARY.codes[number] for number in index.answers[answer])


@given(rows=ROWS)
def test_an_indexed_question_finds_its_answer_with_similarity_one(rows: list[tuple[str, list[str]]]) -> None:
    index = QuestionIndex.build([q for q, _ in rows], [codes for _, codes in rows], vocabulary=VOCABULARY)
    for question, codes in rows:
        found = {codes_of(index, answer): similarity for answer, similarity in index.nearest(question)}
        assert found[tuple(codes)] == pytest.approx(1.0, abs=0.021)


@given(rows=ROWS, question=st.text(max_size=40), count=st.integers(1, 8))
def test_answers_come_distinct_and_best_first(rows: list[tuple[str, list[str]]], question: str, count: int) -> None:
    index = QuestionIndex.build([q for q, _ in rows], [codes for _, codes in rows], vocabulary=VOCABULARY)
    found = index.nearest(question, count)
    similarities = [similarity for _, similarity in found]
    assert len(found) == len({answer for answer, _ in found}) == min(count, len(index.answers))
    assert similarities == sorted(similarities, reverse=True)
    assert all(0.0 <= similarity <= 1.021 for similarity in similarities)
    # Of equals any may be among the first.
    assert similarities == [similarity for _, similarity in index.nearest(question, len(index.answers))][:count]


@given(rows=ROWS, asked=st.lists(st.text(max_size=20), max_size=4))
@settings(max_examples=30)
def test_a_saved_index_finds_what_it_found_before(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[str]]], asked: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    index = QuestionIndex.build([q for q, _ in rows], [codes for _, codes in rows], vocabulary=VOCABULARY)
    index.save(folder)
    loaded = find_question_index(folder)
    assert loaded is not None
    assert loaded.answers == index.answers
    assert loaded.frequencies.tolist() == index.frequencies.tolist()
    assert loaded.nearest_many(asked) == index.nearest_many(asked)


def test_the_nearest_question_gives_the_first_answer() -> None:
    index = built()
    assert [codes_of(index, index.nearest(asked)[0][0]) for asked in ("那百度流量月包咋取消呀", "爱奇艺会员包几块钱")] == [
        ("取消方式_1",),
        ("9.9",),
    ]


def test_an_answer_is_as_near_as_its_nearest_question() -> None:
    index = built(("aaaa", "zzzz"), (("9.9",), ("9.9",)))
    assert [similarity for _, similarity in index.nearest("aaaa")] == [pytest.approx(1.02)]


def test_of_equally_near_answers_the_more_frequent_comes_first() -> None:
    index = built(("怎么办",) * 4, (("9.9",), ("11.9",), ("11.9",), ("11.9",)))
    (first, high), (second, low) = index.nearest("怎么办")
    assert (codes_of(index, first), codes_of(index, second)) == (("11.9",), ("9.9",))
    assert 0 < high - low < 0.02


def test_a_repeated_question_is_held_once_and_counts_for_its_answers_frequency() -> None:
    index = built(("a", "a", "a", "b"), (("9.9",), ("9.9",), ("9.9",), ("11.9",)))
    assert index.frequencies.tolist() == [3, 1]
    assert index.answer_starts.tolist() == [0, 1, 2]


def test_width_and_case_of_letters_do_not_matter() -> None:
    index = built(("ＰＬＡＮ a", "other"), (("9.9",), ("11.9",)))
    assert codes_of(index, index.nearest("plan A")[0][0]) == ("9.9",)


@pytest.mark.parametrize("question", ["", "\0", "😀" * 5, "\ud800", "百" * 1_000_000, "ﷺ" * 2000, "x\u0301" * 5000], ids=ascii)
def test_any_text_can_be_asked_and_indexed(question: str) -> None:
    assert len(built().nearest(question)) == 3
    index = built((question, "else"), (("9.9",), ("11.9",)))
    assert len(index.nearest(question)) == 2


def test_of_a_long_question_start_and_end_count() -> None:
    start, end = "".join(map(chr, range(0x4E00, 0x4E80))), "".join(map(chr, range(0x5E00, 0x5E80)))
    index = built((start + end, "else"), (("9.9",), ("11.9",)))
    assert index.nearest(start + "中" * 5000 + end)[0][1] > 0.97
    assert index.nearest(start + end[::-1])[0][1] < 0.9


def test_an_index_of_nothing_finds_nothing(tmp_path: Path) -> None:
    empty = built((), ())
    assert empty.nearest("百度") == []
    empty.save(tmp_path)
    loaded = find_question_index(tmp_path)
    assert loaded is not None
    assert loaded.nearest_many(["百度", ""]) == [[], []]


def test_of_too_many_questions_evenly_spread_ones_are_indexed() -> None:
    count = MAX_INDEXED_QUESTIONS + 5000
    questions = tuple(chr(0x4E00 + number // 200) + chr(0x4E00 + number % 200) + str(number) for number in range(count))
    index = built(questions, (("9.9",), ("11.9",)) * (count // 2))
    assert index.answer_starts[-1] == MAX_INDEXED_QUESTIONS
    assert np.abs(np.diff(index.answer_starts) - MAX_INDEXED_QUESTIONS // 2).max() <= MAX_INDEXED_QUESTIONS // 10
    assert index.frequencies.tolist() == [count // 2, count // 2]


def test_characters_of_most_questions_say_nothing() -> None:
    questions = tuple(f"请问{chr(0x4E00 + number)}" for number in range(400))
    index = built(questions, (("9.9",), ("11.9",)) * 200)
    assert index.nearest("请问")[0][1] <= 0.02
    assert index.nearest("请问一")[0][1] == pytest.approx(1.02)


def test_the_file_holds_no_text(tmp_path: Path) -> None:
    built().save(tmp_path)
    assert {str(array.dtype) for array in load_file(tmp_path / QUESTIONS).values()} <= {"uint16", "uint32"}
    assert not any(part.encode() in (tmp_path / QUESTIONS).read_bytes() for part in ("百度", "stop", "取消方式"))


def test_equal_rows_give_an_equal_file_in_another_process(tmp_path: Path) -> None:
    built().save(tmp_path)
    program = (
        "import pathlib, sys; from tests.app.ml.engine.test_question_index import built; built().save(pathlib.Path(sys.argv[1]))"
    )
    (tmp_path / "other").mkdir()
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "other")], check=True, env=environment)
    assert (tmp_path / "other" / QUESTIONS).read_bytes() == (tmp_path / QUESTIONS).read_bytes()


def test_an_adapter_without_an_index_has_none(tmp_path: Path) -> None:
    assert find_question_index(tmp_path) is None


def test_an_index_of_another_version_is_left_alone(tmp_path: Path) -> None:
    built().save(tmp_path)
    save_file(load_file(tmp_path / QUESTIONS), tmp_path / QUESTIONS, metadata={"version": "2"})
    assert find_question_index(tmp_path) is None


def test_an_answer_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the code 'x_1'"):
        built(("a",), (("x_1",),))


def test_an_inferred_question_is_found_and_counts_as_no_row() -> None:
    inferred = [("语音包怎么退订", ("11.9",)), ("百度流量月包怎么退订", ("取消方式_1",))]
    index = QuestionIndex.build(QUESTIONS_ASKED, ANSWERS, vocabulary=VOCABULARY, inferred=inferred)
    plain = built()
    assert codes_of(index, index.nearest("语音包怎么退订", 1)[0][0]) == ("11.9",)
    rows = {codes_of(index, number): count for number, count in enumerate(index.frequencies.tolist())}
    assert rows == {codes_of(plain, number): count for number, count in enumerate(plain.frequencies.tolist())} | {("11.9",): 0}
