"""What a job spec's augmentation does to a question."""

import random

from hypothesis import given
from hypothesis import strategies as st

from app.ml.augmentation.augmenting import Augmentation
from app.ml.augmentation.noise import with_slips
from app.ml.augmentation.phrases import PhraseBook
from app.ml.augmentation.synonyms import SynonymBook
from app.ml.spec import resolve_spec

GROUPS = (("怎么", "如何", "咋"), ("取消", "退订"))
BOOK = SynonymBook.of(GROUPS)


@given(text=st.text(max_size=40), chance=st.floats(0, 0.5), seed=st.integers(0, 9))
def test_slips_leave_digits_and_at_least_half_of_a_text(text: str, chance: float, seed: int) -> None:
    slipped = with_slips(text, chance, random.Random(seed))
    assert [char for char in slipped if char.isdecimal()] == [char for char in text if char.isdecimal()]
    assert len(slipped) >= len(text) // 2
    assert set(slipped) <= set(text)


def test_slips_are_made_at_their_chance() -> None:
    slipped = with_slips("字" * 1000, 0.3, random.Random(1))
    # A third of 300 are dropped, a third doubled, a third swapped with their like.
    assert 960 < len(slipped) < 1040
    assert with_slips("怎么取消", 0.0, random.Random(1)) == "怎么取消"


@given(seed=st.integers(0, 99))
def test_without_a_chance_a_question_stays(seed: int) -> None:
    still = Augmentation(
        resolve_spec({"preset": "quick", "synonyms": [list(group) for group in GROUPS]}), PhraseBook(("请问",)), synonyms=BOOK
    )
    assert still.said_otherwise("怎么取消", random.Random(seed)) == "怎么取消"


def test_each_chance_changes_questions() -> None:
    for asked in ({"augment_noise": 0.3}, {"augment_phrases": 1.0}, {"augment_synonyms": 1.0}):
        spec = resolve_spec({"preset": "quick", "synonyms": [list(group) for group in GROUPS], **asked})
        augmentation = Augmentation(spec, PhraseBook(("请问",)), synonyms=BOOK)
        assert any(augmentation.said_otherwise("怎么取消", random.Random(seed)) != "怎么取消" for seed in range(20)), asked


def test_a_jobs_own_words_and_those_of_its_lists_are_exchanged() -> None:
    asked = {"preset": "quick", "augment_synonyms": 1.0, "synonyms": [["语音包", "语音套餐"]], "synonym_lists": ["telecom_zh"]}
    augmentation = Augmentation.make(resolve_spec(asked), ["语音包怎么退订"], [["取消方式_1"]])
    said = {augmentation.said_otherwise("语音包怎么退订", random.Random(seed)) for seed in range(40)}
    assert "语音套餐怎么退订" in said
    assert "语音包怎么注销" in said


def test_lists_are_read_for_those_alone_who_want_words_exchanged() -> None:
    asked = {"preset": "quick", "synonym_lists": ["telecom_zh"]}
    assert not Augmentation.make(resolve_spec(asked), ["语音包怎么退订"], [["取消方式_1"]]).synonyms
