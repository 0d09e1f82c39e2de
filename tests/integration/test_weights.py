"""The real Gemma 3 270M weights: their import into the store, checked against what is published."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from app.durable import verify_folder
from app.ml.engine.import_checks import GOLDEN_LOGITS, GOLDEN_TOKENS, check_import, fixed_text_logits
from app.ml.engine.loading import LoadedModel, load_base_model
from app.ml.errors import BrokenModelImport
from app.ml.model_store import GEMMA3_270M, ModelStore
from app.ml.prompting import PromptRenderer
from app.settings import DEFAULT_BASE_MODELS, Settings

pytestmark = [pytest.mark.weights, pytest.mark.timeout(600)]

SOURCE = DEFAULT_BASE_MODELS[GEMMA3_270M]
SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def store() -> ModelStore:
    """The product's own store, so that `make demo` finds what this imported."""
    store = ModelStore(Settings(data_dir=Path(__file__).parents[2] / ".dianda").models_dir, DEFAULT_BASE_MODELS)
    store.import_in_subprocess(GEMMA3_270M)
    return store


@pytest.fixture(scope="module")
def loaded(store: ModelStore) -> LoadedModel:
    return load_base_model(store.get(GEMMA3_270M), device=torch.device("cpu"), dtype=torch.float32)


def test_the_import_is_whole_and_says_where_it_came_from(store: ModelStore) -> None:
    folder = store.get(GEMMA3_270M)
    assert verify_folder(folder.path) == folder.checksum
    assert json.loads((folder.path / "origin.json").read_text())["source"] == SOURCE


def test_the_imported_weights_pass_every_check(loaded: LoadedModel) -> None:
    check_import(loaded, SOURCE)
    logits, perplexity = fixed_text_logits(loaded)
    assert [round(float(logits[-1, token]), 2) for token in GOLDEN_TOKENS] == pytest.approx(GOLDEN_LOGITS, abs=0.02)
    assert 50 < perplexity < 100


def test_a_norm_that_was_imported_off_by_one_is_noticed(loaded: LoadedModel) -> None:
    # GGUF stores Gemma's norms as 1 + w: the classic import mistake.
    norm = loaded.network.model.norm.weight
    with torch.no_grad():
        norm += 1
    try:
        with pytest.raises(BrokenModelImport):
            check_import(loaded, SOURCE)
    finally:
        with torch.no_grad():
            norm -= 1


def test_a_wrong_rope_base_is_noticed(loaded: LoadedModel) -> None:
    rope = loaded.network.config.rope_parameters["sliding_attention"]
    rope["rope_theta"] = 1_000_000.0
    try:
        with pytest.raises(BrokenModelImport, match="rope"):
            check_import(loaded, SOURCE)
    finally:
        rope["rope_theta"] = 10_000.0


def test_a_thousand_chinese_lines_come_back_unchanged_from_the_tokenizer(loaded: LoadedModel) -> None:
    lines = [line for path in sorted(SAMPLES.glob("telecom_demo*.json")) for line in path.read_text().splitlines()]
    # Every CJK character of a block, and rare ones that only bytes can spell.
    lines += [chr(code) + chr(code + 1) for code in range(0x4E00, 0x9FA0, 30)] + ["𠮷", "🀄|🀅", "ﾃｽﾄ", "\u200b|"]
    assert len(lines) >= 1000
    tokenizer = loaded.tokenizer
    assert [line for line in lines if tokenizer.decode(tokenizer.encode(line)) != line] == []


def test_a_prompt_has_exactly_one_bos(loaded: LoadedModel) -> None:
    for template in ("plain", "default"):
        ids = PromptRenderer(template).encode("<bos>百度流量月包怎么取消", loaded.tokenizer)  # type: ignore[arg-type]
        assert ids.count(2) == 1
        assert ids[0] == 2


def test_the_separator_is_one_token_and_codes_do_not_swallow_it(loaded: LoadedModel) -> None:
    assert len(loaded.tokenizer.encode("|")) == 1
    assert loaded.tokenizer.encode("取消方式_68")[-2:] == loaded.tokenizer.encode("6") + loaded.tokenizer.encode("8")


def test_an_import_that_was_cut_off_is_not_offered(store: ModelStore, tmp_path: Path) -> None:
    cut = tmp_path / GEMMA3_270M
    cut.mkdir()
    shutil.copy(store.get(GEMMA3_270M).path / "config.json", cut)
    assert ModelStore(tmp_path, DEFAULT_BASE_MODELS).find(GEMMA3_270M) is None
