import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.ml.adapter_card import CARD, AdapterCard, read_card, write_card
from app.ml.calibration import CalibrationRow, fit_calibration
from app.ml.codes import CodeVocabulary
from app.ml.novelty_limit import NoveltyLimit
from app.ml.prompting import PromptRenderer, Wrapper
from app.ml.spec import PRESETS


@dataclass(frozen=True)
class CharTokenizer:
    """A token a character."""

    bos_id: int | None = None
    eos_id: int = 0
    pad_id: int = 1

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


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


def test_a_card_holds_what_was_found_on_held_out_rows(card: AdapterCard, tmp_path: Path) -> None:
    calibration = fit_calibration([CalibrationRow(((0.0, -1.0),), (0,), bool(row % 3)) for row in range(120)])
    whole = replace(card, calibration=calibration, novelty=NoveltyLimit(limit=0.4, false_alarm_rate=0.02, rows=120))
    write_card(tmp_path, whole)
    assert read_card(tmp_path) == whole


def test_a_card_says_which_tokens_are_its_codes(card: AdapterCard, tmp_path: Path) -> None:
    single = replace(card, code_token_ids=(3, 70))
    write_card(tmp_path, single)

    assert read_card(tmp_path) == single
    tokenizer = read_card(tmp_path).tokenizer_on(CharTokenizer())
    assert (tokenizer.encode("9.9"), tokenizer.encode("9.9\n")) == ([70], [57, 46, 57, 10])
    assert card.tokenizer_on(tokenizer) == CharTokenizer(), "another adapter's codes are none of its own"


def test_values_outside_are_not_written_where_codes_are_single_tokens(card: AdapterCard) -> None:
    assert card.grammar_on(CharTokenizer(), "open_values").has_open_values
    assert not replace(card, code_token_ids=(3, 70)).grammar_on(CharTokenizer(), "open_values").has_open_values


def test_a_card_of_before_calibration_stays_readable(card: AdapterCard, tmp_path: Path) -> None:
    write_card(tmp_path, card)
    mapping = json.loads((tmp_path / CARD).read_text())
    assert mapping["calibration"] is None
    del mapping["novelty"]
    (tmp_path / CARD).write_text(json.dumps(mapping))
    assert read_card(tmp_path) == card
