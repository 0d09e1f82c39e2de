from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.durable import seal_folder
from app.ml.engine.loading import LoadedModel
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from tests.app.ml.engine.training_help import EXAMPLES, FAST, Published, load, publish, run
from tests.fixtures.tiny import write_tiny_model


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """The tiny model is too small for two threads to help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sharp_folder(tmp_path_factory: pytest.TempPathFactory) -> BaseModelFolder:
    """The tiny Gemma with logits eight times as large, so that it can become sure of an answer."""
    return make_sharp(tmp_path_factory.mktemp("sharp") / "sharp-gemma", seed=0)


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> BaseModelFolder:
    """The same architecture with other weights."""
    return make_sharp(tmp_path_factory.mktemp("other") / "other-gemma", seed=1)


@pytest.fixture
def base(sharp_folder: BaseModelFolder) -> LoadedModel:
    return load(sharp_folder)


def make_sharp(path: Path, *, seed: int) -> BaseModelFolder:
    folder = write_tiny_model(path, seed=seed)
    network = load(folder).network
    with torch.no_grad():
        network.model.norm.weight.fill_(7.0)  # Gemma's norm scales by 1 + weight.
    network.save_pretrained(path)
    return replace(folder, checksum=seal_folder(path))


# The same questions with other codes, so that two adapters on one base must answer differently.
OTHER_EXAMPLES = tuple(
    Example(one.row, one.question, codes)
    for one, codes in zip(EXAMPLES, [("x_1",), ("x_2", "y"), ("y",), ("x_1", "x_12"), ("z_3", "x_2")], strict=True)
)
VARIANTS = {
    "lora": (FAST, EXAMPLES),
    "dora": (replace(FAST, use_dora=True), OTHER_EXAMPLES),
    "rslora": (replace(FAST, use_rslora=True, lora_alpha=8, lora_target=("q_proj", "v_proj", "down_proj")), EXAMPLES),
    "embedding": (
        replace(
            FAST, lora_target=("q_proj", "embed_tokens"), loraplus_lr_ratio=1.0, loraplus_lr_embedding=1e-2, num_train_epochs=5
        ),
        EXAMPLES,
    ),
}


@pytest.fixture(scope="session")
def published(sharp_folder: BaseModelFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    """One finished adapter of each variant."""
    place = tmp_path_factory.mktemp("adapters")
    adapters = {}
    for name, (spec, examples) in VARIANTS.items():
        result = run(sharp_folder, spec, place / "checkpoints" / name, examples=examples)
        checksum = publish(result, place / name, sharp_folder, spec, examples)
        adapters[name] = Published(place / name, checksum, result.network, examples)
    return adapters
