"""Questions joined as the training rows join them."""

import random
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from app.ml.augmentation.augmenting import Augmentation
from app.ml.augmentation.joins import JoinBook, interleaved, mine_joins
from app.ml.augmentation.phrases import Phrase, PhraseBook
from app.ml.spec import resolve_spec

THINGS = ("流量月包", "语音季包", "视频年包", "定向日包", "亲情号码")
ASKS = {"怎么取消": "取消方式", "多少钱": "资费说明", "几天有效": "生效规则"}


def rows(joint: str = "，还有", things: tuple[str, ...] = THINGS) -> dict[str, tuple[str, ...]]:
    """Each thing with each ask, and of all but the last thing one question that joins two."""
    found: dict[str, tuple[str, ...]] = {}
    for number, thing in enumerate(things, start=1):
        for ask, category in ASKS.items():
            found[thing + ask] = (f"{category}_{number}",)
        if thing != things[-1]:
            found[f"{thing}怎么取消{joint}多少钱"] = (f"取消方式_{number}", f"资费说明_{number}")
    return found


def mined(found: dict[str, tuple[str, ...]], phrases: PhraseBook | None = None) -> JoinBook:
    return mine_joins(list(found), list(found.values()), phrases or PhraseBook())


def test_the_joint_and_the_asks_are_those_of_the_rows() -> None:
    book = mined(rows())
    assert book.joints == ("，还有",)
    assert {"怎么取消", "多少钱"} <= book.asks
    assert "几天有效" not in book.asks


def test_a_thing_that_no_row_asks_twice_about_is_asked_twice_about() -> None:
    joined = mined(rows()).joined("亲情号码多少钱", ("资费说明_5",), random.Random(0))
    assert joined == ("亲情号码多少钱，还有怎么取消", ("资费说明_5", "取消方式_5"))


def test_phrases_that_stand_for_an_ask_are_asks_too() -> None:
    found = rows() | {f"{thing}能用几天": (f"生效规则_{number}",) for number, thing in enumerate(THINGS, start=1)}
    found |= {f"{thing}怎么退订": (f"取消方式_{number}",) for number, thing in enumerate(THINGS, start=1)}
    book = mined(
        found, PhraseBook(exchanges={Phrase("end", "怎么取消"): ("怎么退订",), Phrase("end", "几天有效"): ("能用几天",)})
    )
    assert "怎么退订" in book.asks
    assert not {"几天有效", "能用几天"} & book.asks


def test_rows_of_two_answers_show_no_joint() -> None:
    assert not mined(rows(things=THINGS[:3]))
    assert mined(rows(things=THINGS[:4]))


def test_a_question_with_two_answers_shows_nothing() -> None:
    # The rows of every thing's first ask stand twice, with different codes.
    found = rows()
    questions = [*found, *(thing + "怎么取消" for thing in THINGS)]
    answers = [*found.values(), *(("别的_1",) for _ in THINGS)]
    assert not mine_joins(questions, answers, PhraseBook())


def test_what_is_joined_already_is_not_joined_again() -> None:
    book = mined(rows())
    for thing in THINGS:
        assert book.joined(f"{thing}怎么取消，还有多少钱", ("取消方式_1", "资费说明_1"), random.Random(0)) is None


def test_no_joined_answer_is_longer_than_the_rows_answers() -> None:
    found = rows()
    for number, thing in enumerate(THINGS, start=1):
        found[thing + "多少钱"] = (f"资费说明_{number}", f"资费说明_{number + 10}")
    for number, thing in enumerate(THINGS[:-1], start=1):
        found[f"{thing}怎么取消，还有多少钱"] = (f"取消方式_{number}", f"资费说明_{number}", f"资费说明_{number + 10}")
    book = mined(found)
    assert book.most_codes == 3
    assert book.joined("亲情号码怎么取消", ("取消方式_5",), random.Random(0)) is not None
    assert book.joined("亲情号码怎么取消", ("取消方式_5", "取消方式_6"), random.Random(0)) is None


@given(seed=st.integers(0, 99), thing=st.sampled_from(THINGS), ask=st.sampled_from(("怎么取消", "多少钱")))
def test_a_joined_question_begins_as_it_was_and_asks_for_the_codes_of_both(seed: int, thing: str, ask: str) -> None:
    found = rows()
    joined = mined(found).joined(thing + ask, found[thing + ask], random.Random(seed))
    assert joined is not None
    text, codes = joined
    assert text.startswith(thing + ask)
    other = next(one for one in ASKS if text.endswith(one))
    assert set(codes) == {*found[thing + ask], *found[thing + other]}


@given(st.lists(st.text(max_size=12), max_size=30), st.integers(0, 5))
def test_any_rows_can_be_mined(questions: list[str], seed: int) -> None:
    chooser = random.Random(seed)
    answers = [tuple(chooser.sample("abcdef", chooser.randint(1, 3))) for _ in questions]
    book = mine_joins(questions, answers, PhraseBook())
    for question, codes in zip(questions, answers, strict=True):
        joined = book.joined(question, codes, chooser)
        assert joined is None or len(set(joined[1])) == len(joined[1]) <= book.most_codes


def test_answers_of_equal_length_take_turns() -> None:
    for first, second in product(range(1, 4), repeat=2):
        codes = interleaved([f"a{n}" for n in range(first)], [f"b{n}" for n in range(second)])
        assert len(codes) == first + second
        assert (codes[1] == "b0") == (first in (second, 1))


def test_a_greeted_question_is_joined_where_phrases_are_not_to_be_exchanged() -> None:
    found = rows() | {f"请问{question}": codes for question, codes in rows().items()}
    spec = resolve_spec({"preset": "quick", "augment_joins": 1.0})
    augmentation = Augmentation.make(spec, list(found), list(found.values()))
    joined = augmentation.joined("请问亲情号码多少钱", ("资费说明_5",), random.Random(0))
    assert joined == ("亲情号码多少钱，还有怎么取消", ("资费说明_5", "取消方式_5"))
    assert augmentation.said_otherwise("请问亲情号码多少钱", random.Random(0)) == "请问亲情号码多少钱"
