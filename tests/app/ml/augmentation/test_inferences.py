"""What follows from several training rows together, and is trusted only where the rows bear it out."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.augmentation.augmenting import Augmentation
from app.ml.augmentation.inferences import InferenceBook, mine_inferences
from app.ml.augmentation.joins import mine_joins
from app.ml.augmentation.phrases import PhraseBook
from app.ml.spec import resolve_spec

Rows = dict[str, tuple[str, ...]]
THINGS = ("流量月包", "语音季包", "视频年包", "定向日包", "亲情号码", "来电提醒", "天气预报")
ASKS = {"怎么取消": "取消方式", "多少钱": "资费说明", "几天有效": "生效规则"}
PLANS = ("15元的", "30元的")


def code(ask: str, thing: str, plan: int) -> str:
    return f"{ASKS[ask]}_{10 * THINGS.index(thing) + plan}"


def wholes() -> Rows:
    """Each thing's two plans together, in one order; every pair of asks is joined in a question about some thing."""
    found = {thing + ask: tuple(code(ask, thing, plan) for plan in range(2)) for thing in THINGS for ask in ASKS}
    for thing in THINGS:
        for first, second in combinations(ASKS, 2):
            both = [code(ask, thing, plan) for plan in range(2) for ask in (first, second)]
            found[f"{thing}{first}，还有{second}"] = tuple(both)
    return found


def parts(asks: tuple[str, ...] = ("怎么取消", "多少钱")) -> Rows:
    """Each plan of each thing, asked by its price."""
    return {
        f"{price}{thing}{ask}": (code(ask, thing, plan),) for thing in THINGS for plan, price in enumerate(PLANS) for ask in asks
    }


def mined(rows: Rows) -> InferenceBook:
    questions, answers = list(rows), list(rows.values())
    return mine_inferences(questions, answers, PhraseBook(), mine_joins(questions, answers, PhraseBook()))


def test_what_wholes_tell_is_known_of_their_parts() -> None:
    book = mined(wholes() | parts())
    for thing in THINGS:
        for plan, price in enumerate(PLANS):
            assert book.by_head[price + thing] == (("几天有效", (code("几天有效", thing, plan),)),)


def test_nothing_follows_that_a_row_says_already() -> None:
    assert not mined(wholes() | parts(tuple(ASKS)))


def test_a_part_whose_place_changes_from_list_to_list_stays_unknown() -> None:
    rows = wholes() | parts()
    rows["流量月包多少钱"] = tuple(reversed(rows["流量月包多少钱"]))
    assert not {"15元的流量月包", "30元的流量月包"} & set(mined(rows).by_head)
    assert "15元的语音季包" in mined(rows).by_head


def test_where_the_places_do_not_hold_nothing_follows_of_any_part() -> None:
    rows = wholes() | parts()
    for thing in THINGS[:2]:
        rows[f"{thing}多少钱"] = tuple(reversed(rows[f"{thing}多少钱"]))
    assert not mined(rows)


def test_too_few_rows_bear_nothing_out() -> None:
    few = {
        question: codes for question, codes in (wholes() | parts()).items() if not any(thing in question for thing in THINGS[4:])
    }
    assert not mined(few)


def joint_rows() -> Rows:
    """Things of one plan: most are asked alone and jointly; the last one jointly alone."""
    found: Rows = {}
    for thing in THINGS:
        for first, second in combinations(ASKS, 2):
            found[f"{thing}{first}，还有{second}"] = (code(first, thing, 0), code(second, thing, 0))
        if thing != THINGS[-1]:
            found |= {thing + ask: (code(ask, thing, 0),) for ask in ASKS}
    return found


def test_a_joint_question_tells_both_of_its_answers() -> None:
    last = THINGS[-1]
    assert set(mined(joint_rows()).by_head[last]) == {(ask, (code(ask, last, 0),)) for ask in ASKS}


def test_joint_questions_whose_codes_stand_in_another_order_tell_nothing() -> None:
    turned = {question: tuple(reversed(codes)) for question, codes in joint_rows().items()}
    assert not mined(turned)


def test_inferred_questions_are_bare_and_one_for_each_code() -> None:
    last = THINGS[-1]
    assert sorted(mined(joint_rows()).questions()) == sorted((last + ask, (code(ask, last, 0),)) for ask in ASKS)


@pytest.mark.parametrize("asked", [f"请问{THINGS[-1]}怎么取消，还有多少钱", f"{THINGS[-1]}怎么取消，还有几天有效"])
def test_a_row_asks_what_follows_of_its_thing_at_its_chance(asked: str) -> None:
    rows = joint_rows() | {f"请问{question}": codes for question, codes in joint_rows().items()}
    made = {
        chance: Augmentation.make(
            resolve_spec({"preset": "quick", "augment_inferences": chance}), list(rows), list(rows.values())
        )
        for chance in (0.0, 1.0)
    }
    chooser = random.Random(0)
    told = {made[1.0].inferred(asked, chooser) for _ in range(40)}
    assert told == {(THINGS[-1] + ask, (code(ask, THINGS[-1], 0),)) for ask in ASKS}
    assert made[0.0].inferred(asked, chooser) is None
    assert made[1.0].inferred("别的怎么取消", chooser) is None


def test_what_follows_is_joined_as_what_rows_say() -> None:
    rows = wholes() | parts()
    spec = resolve_spec({"preset": "quick", "augment_inferences": 0.5, "augment_joins": 1.0})
    augmentation = Augmentation.make(spec, list(rows), list(rows.values()))
    chooser = random.Random(0)
    joined = {augmentation.joined("15元的流量月包怎么取消", ("取消方式_0",), chooser) for _ in range(40)}
    assert ("15元的流量月包怎么取消，还有几天有效", ("取消方式_0", "生效规则_0")) in joined


@given(st.lists(st.text(alphabet="ab，还有怎么取消多少钱", max_size=12), max_size=40), st.integers(0, 5))
def test_any_rows_can_be_mined_and_only_their_codes_follow(questions: list[str], seed: int) -> None:
    chooser = random.Random(seed)
    answers = [tuple(chooser.sample("abcdef", chooser.randint(1, 3))) for _ in questions]
    book = mine_inferences(questions, answers, PhraseBook(), mine_joins(questions, answers, PhraseBook()))
    assert {one for _, codes in book.questions() for one in codes} <= {one for codes in answers for one in codes}
