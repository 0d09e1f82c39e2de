"""Codes exchanged for others throughout a prompt and its answer."""

import random

from hypothesis import given
from hypothesis import strategies as st

from app.ml.augmentation.code_exchange import CodeExchange
from app.ml.codes import shape_of
from app.ml.prompting import SolvedQuestion

CODES = [*(f"取消方式_{number}" for number in range(9)), *(f"{number}G" for number in range(1, 7)), "体验版", "年包"]
EXCHANGE = CodeExchange.of(CODES)
SHOWN = [SolvedQuestion("语音包怎么退", ("取消方式_1",)), SolvedQuestion("语音包怎么退，多大", ("取消方式_1", "5G"))]


@given(
    answers=st.lists(st.lists(st.sampled_from(CODES), min_size=1, max_size=4, unique=True), min_size=1, max_size=6),
    own=st.data(),
    seed=st.integers(0, 999),
)
def test_an_answer_is_still_read_off_its_prompt(answers: list[list[str]], own: st.DataObject, seed: int) -> None:
    shown = [SolvedQuestion("q", tuple(answer)) for answer in answers]
    held = sorted({code for answer in answers for code in answer})
    codes = own.draw(st.lists(st.sampled_from(held), min_size=1, unique=True))
    exchanged = EXCHANGE.exchanged("q", codes, shown, random.Random(seed))
    assert exchanged is not None
    becomes: dict[str, str] = {}
    for old, new in zip(
        [*codes, *(code for one in shown for code in one.codes)],
        [*exchanged[1], *(code for one in exchanged[0] for code in one.codes)],
        strict=True,
    ):
        assert becomes.setdefault(old, new) == new, "one code became two"
        assert new in CODES
        assert shape_of(new) == shape_of(old) or {old, new} <= {"体验版", "年包"}
    assert len(set(becomes.values())) == len(becomes), "two codes became one"


def test_codes_do_become_others() -> None:
    found = {EXCHANGE.exchanged("语音包咋退", ["取消方式_1"], SHOWN, random.Random(seed))[1] for seed in range(40)}  # type: ignore[index]
    assert len(found) > 5


def test_an_answer_that_is_not_shown_is_left_alone() -> None:
    assert EXCHANGE.exchanged("语音包咋退", ["取消方式_2"], SHOWN, random.Random(0)) is None
    assert EXCHANGE.exchanged("语音包咋退", ["取消方式_1"], [], random.Random(0)) is None


def test_a_code_that_a_question_speaks_of_stays_and_no_other_becomes_it() -> None:
    shown = [*SHOWN, SolvedQuestion("流量包多大", ("2G",))]
    for seed in range(40):
        exchanged = EXCHANGE.exchanged("5G的语音包多大", ["5G"], shown, random.Random(seed))
        assert exchanged is not None
        assert exchanged[1] == ("5G",)
        assert exchanged[0][-1].codes != ("5G",)


def test_a_code_outside_the_vocabulary_stays() -> None:
    shown = [SolvedQuestion("q", ("new",))]
    assert EXCHANGE.exchanged("p", ["new"], shown, random.Random(0)) == (shown, ("new",))
