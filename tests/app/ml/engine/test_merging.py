"""A merged model computes what its adapter computed in training, and what plain peft computes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from app.durable import seal_folder
from app.ml.engine.merging import Factors, merge_adapter, merged_weight
from app.ml.errors import AdapterMismatch
from app.ml.model_store import BaseModelFolder
from app.ml.spec_values import ALL_LINEAR
from tests.app.ml.engine.training_help import EXAMPLES, FAST, Published, publish, run

# A few steps: the factors must have left their start, nothing has to be learnt.
SHORT = replace(FAST, num_train_epochs=3, lora_rank=4, lora_alpha=8)
SPECS = {
    "lora": replace(SHORT, lora_target=("q_proj", "k_proj", "v_proj")),
    "dora": replace(SHORT, use_dora=True, lora_target=("q_proj", "k_proj", "v_proj")),
    "rslora": replace(SHORT, use_rslora=True, lora_target=ALL_LINEAR),
    "recipe": replace(SHORT, use_dora=True, use_rslora=True, lora_target=ALL_LINEAR),
    "embedding": replace(SHORT, lora_target=("q_proj", "embed_tokens"), loraplus_lr_ratio=1.0, loraplus_lr_embedding=1e-2),
    "dora_embedding": replace(SHORT, use_dora=True, lora_target=("q_proj", "embed_tokens")),
}
TOKENS = torch.tensor([[256, *b"how to stop plan A\n"], [256, *b"price of B, please\n"]])


@pytest.fixture(scope="module")
def trained(sharp_folder: BaseModelFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    place = tmp_path_factory.mktemp("to-merge")
    adapters = {}
    for name, spec in SPECS.items():
        result = run(sharp_folder, spec, place / "checkpoints" / name)
        checksum = publish(result, place / name, sharp_folder, spec)
        adapters[name] = Published(place / name, checksum, result.network, EXAMPLES)
    return adapters


@torch.no_grad()
def logits_of(network: Any) -> torch.Tensor:
    network.eval()
    logits: torch.Tensor = network(input_ids=TOKENS).logits.float()
    return logits


def plain_network(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def merge(base: BaseModelFolder, adapter: Published, target: Path, **options: Any) -> Path:
    target.mkdir()
    assert merge_adapter(base.path, adapter.folder, target, go_on=lambda done, total: True, **options)
    return target


@pytest.mark.parametrize("name", SPECS)
def test_merged_peft_and_trained_networks_give_the_same_logits(
    sharp_folder: BaseModelFolder, trained: dict[str, Published], tmp_path: Path, name: str
) -> None:
    wanted = logits_of(trained[name].network)

    merged = logits_of(plain_network(merge(sharp_folder, trained[name], tmp_path / "merged")))
    peft = logits_of(PeftModel.from_pretrained(plain_network(sharp_folder.path), str(trained[name].folder)))

    assert (merged - wanted).abs().max() < 1e-4
    assert (peft - wanted).abs().max() < 1e-4
    # The adapter does something: else this would pass for a copy of the base.
    assert (logits_of(plain_network(sharp_folder.path)) - wanted).abs().max() > 0.1


@given(
    rows=st.integers(1, 6), columns=st.integers(1, 6), rank=st.integers(1, 4), seed=st.integers(0, 999), embedding=st.booleans()
)
def test_each_merged_row_has_doras_magnitude(rows: int, columns: int, rank: int, seed: int, embedding: bool) -> None:
    torch.manual_seed(seed)
    down, up = torch.randn(rank, rows if embedding else columns), torch.randn(columns if embedding else rows, rank)
    magnitude = torch.rand(columns if embedding else rows) + 0.1

    merged = merged_weight(torch.randn(rows, columns), Factors(down, up, magnitude, embedding), 2.0)

    torch.testing.assert_close(merged.norm(dim=0 if embedding else 1), magnitude)


def test_the_sum_is_taken_in_fp32_and_rounded_once() -> None:
    weight = torch.full((1, 1), 1.0, dtype=torch.bfloat16)
    # Each product is lost in bf16 beside 1, their sum is not.
    factors = Factors(torch.full((4, 1), 0.05), torch.full((1, 4), 0.05), None, False)

    merged = merged_weight(weight, factors, 1.0)

    assert merged.dtype is torch.bfloat16
    assert merged.item() == torch.tensor(1.01).to(torch.bfloat16).item()


def test_a_model_larger_than_a_shard_is_written_in_several_and_loads(
    sharp_folder: BaseModelFolder, trained: dict[str, Published], tmp_path: Path
) -> None:
    whole = merge(sharp_folder, trained["recipe"], tmp_path / "whole")
    limit = 20_000

    cut = merge(sharp_folder, trained["recipe"], tmp_path / "cut", max_shard_bytes=limit)

    shards = sorted(path.name for path in cut.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert torch.equal(logits_of(plain_network(cut)), logits_of(plain_network(whole)))


def test_a_tied_head_stays_tied_where_the_adapter_leaves_the_embedding_alone(
    sharp_folder: BaseModelFolder, trained: dict[str, Published], tmp_path: Path
) -> None:
    network = plain_network(merge(sharp_folder, trained["lora"], tmp_path / "merged"))

    assert network.lm_head.weight.data_ptr() == network.model.embed_tokens.weight.data_ptr()


def test_a_changed_embedding_gets_a_head_of_its_own(
    sharp_folder: BaseModelFolder, trained: dict[str, Published], tmp_path: Path
) -> None:
    network = plain_network(merge(sharp_folder, trained["embedding"], tmp_path / "merged"))

    assert not network.config.tie_word_embeddings
    assert torch.equal(network.lm_head.weight, plain_network(sharp_folder.path).model.embed_tokens.weight)


def test_the_tokenizer_comes_along_and_generation_is_greedy(
    sharp_folder: BaseModelFolder, trained: dict[str, Published], tmp_path: Path
) -> None:
    merged = merge(sharp_folder, trained["lora"], tmp_path / "merged")

    assert (merged / "tokenizer.json").read_bytes() == (sharp_folder.path / "tokenizer.json").read_bytes()
    generation = GenerationConfig.from_pretrained(merged)
    assert (generation.do_sample, generation.eos_token_id, generation.pad_token_id) == (False, 257, 258)
    assert sorted(path.name for path in merged.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_config_that_names_no_architecture_gets_its_name(
    sharp_folder: BaseModelFolder, trained: dict[str, Published], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(sharp_folder.path, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    del config["architectures"]
    (base / "config.json").write_text(json.dumps(config))

    merged = merge(replace(sharp_folder, path=base), trained["lora"], tmp_path / "merged")

    assert json.loads((merged / "config.json").read_text())["architectures"] == ["Gemma3ForCausalLM"]


def test_a_merge_that_is_not_wanted_any_more_ends_at_once(
    sharp_folder: BaseModelFolder, trained: dict[str, Published], tmp_path: Path
) -> None:
    heard = []

    def go_on(done: int, total: int) -> bool:
        heard.append(done)
        return done < 3

    assert not merge_adapter(sharp_folder.path, trained["lora"].folder, tmp_path, go_on=go_on)
    assert heard == [1, 2, 3]
    assert not (tmp_path / "config.json").exists()


def test_an_adapter_of_another_architecture_is_refused(
    sharp_folder: BaseModelFolder, trained: dict[str, Published], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(trained["lora"].folder, tmp_path / "other"))
    weights = {
        key.replace("layers.1", "layers.7"): tensor for key, tensor in load_file(other / "adapter_model.safetensors").items()
    }
    save_file(weights, other / "adapter_model.safetensors")
    seal_folder(other)

    with pytest.raises(AdapterMismatch, match=r"layers\.7"):
        merge_adapter(sharp_folder.path, other, tmp_path, go_on=lambda done, total: True)
