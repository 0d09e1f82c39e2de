import json
from pathlib import Path

import pytest

from app.ml.adapter_card import CARD, AdapterCard, read_card, write_card
from app.ml.codes import CodeVocabulary
from app.ml.prompting import PromptRenderer, Wrapper
from app.ml.spec import PRESETS


@pytest.fixture
def card() -> AdapterCard:
    return AdapterCard(
        base_model="tiny-gemma",
        base_model_checksum="b" * 64,
        dataset_checksum="d" * 64,
        spec=PRESETS["recipe"],
        precision="fp32",
        seed=3,
        wrapper=Wrapper("请回答", "怎么办？"),
        vocabulary=CodeVocabulary(("开通方式_98", "9.9"), 2),
        metrics={"train_loss": 0.5, "validation": {"exact_match": 1.0}},
        versions={"torch": "2"},
    )


def test_a_card_comes_back_as_it_was_written(card: AdapterCard, tmp_path: Path) -> None:
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card


def test_a_card_that_was_used_before_writing_comes_back_too(card: AdapterCard, tmp_path: Path) -> None:
    assert "9.9" in card.vocabulary
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card


def test_a_card_says_its_version_and_is_readable_by_people(card: AdapterCard, tmp_path: Path) -> None:
    write_card(tmp_path, card)
    text = (tmp_path / CARD).read_text(encoding="utf-8")
    assert json.loads(text)["version"] == 1
    assert "开通方式_98" in text


def test_a_card_gives_the_renderer_that_the_adapter_was_trained_with(card: AdapterCard) -> None:
    assert card.renderer == PromptRenderer("default", Wrapper("请回答", "怎么办？"))
