import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel

from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import (
    attach_adapter,
    flat_groups,
    load_adapter,
    restore_adapter,
    save_adapter,
    trainable_parameter_count,
    trainable_parameters,
    unused_settings,
)
from app.ml.errors import InvalidSpec
from app.ml.model_store import BaseModelFolder
from app.ml.spec import PRESETS, FinetuneSpec
from app.ml.spec_values import ALL_LINEAR
from tests.app.ml.engine.training_help import adapter_tensors, load

SMALL = FinetuneSpec(lora_rank=4, lora_alpha=8, lora_target=("q_proj", "v_proj"), learning_rate=1e-3)


def test_the_recipe_trains_20_100_096_numbers_of_gemma_2b() -> None:
    # By hand, a layer: q (2048 + 2048) * 128 + 2048, k and v (2048 + 256) * 128 + 256 each; 18 layers.
    config = GemmaConfig(
        vocab_size=256_000,
        hidden_size=2048,
        intermediate_size=16_384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
    )
    with torch.device("meta"):
        network = attach_adapter(GemmaForCausalLM(config).requires_grad_(False), PRESETS["recipe"])
    assert trainable_parameter_count(network) == 20_100_096


def test_only_the_adapter_trains_and_in_fp32(base: LoadedModel) -> None:
    parameters = trainable_parameters(attach_adapter(base.network, replace(SMALL, use_dora=True)))
    assert all("lora_" in name and parameter.dtype == torch.float32 for name, parameter in parameters.items())
    # 2 layers: q 32 -> 32, v 32 -> 16, rank 4, and DoRA's magnitudes.
    assert sum(p.numel() for p in parameters.values()) == 2 * ((32 + 32) * 4 + 32 + (32 + 16) * 4 + 16)


def test_a_fresh_adapter_changes_nothing(base: LoadedModel) -> None:
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        before = base.network(input_ids=ids).logits
        after = attach_adapter(base.network, replace(SMALL, use_dora=True)).eval()(input_ids=ids).logits
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_pefts_scale_is_the_specs(base: LoadedModel, use_rslora: bool) -> None:
    spec = replace(SMALL, use_rslora=use_rslora)
    network = attach_adapter(base.network, spec)
    scale = network.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").scaling["default"]
    assert scale == pytest.approx(spec.lora_scale)


def test_a_base_model_without_a_target_module_is_refused() -> None:
    network = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    with pytest.raises(InvalidSpec, match="no module q_proj, v_proj") as caught:
        attach_adapter(network, SMALL)
    assert caught.value.param == "lora_target"


def test_without_lora_plus_one_group_holds_everything(base: LoadedModel) -> None:
    network = attach_adapter(base.network, SMALL)
    (group,) = flat_groups(network, SMALL)
    assert set(group.members) == set(trainable_parameters(network))
    assert group.learning_rate == 1e-3


def test_with_lora_plus_b_learns_faster(base: LoadedModel) -> None:
    spec = replace(SMALL, loraplus_lr_ratio=16.0, use_dora=True)
    slow, fast = flat_groups(attach_adapter(base.network, spec), spec)
    assert (slow.learning_rate, fast.learning_rate) == (1e-3, pytest.approx(16e-3))
    assert all("lora_B" in name for name in fast.members)
    assert not any("lora_B" in name for name in slow.members)


def test_with_lora_plus_factors_on_embeddings_have_their_own_rate(base: LoadedModel) -> None:
    spec = replace(SMALL, loraplus_lr_ratio=2.0, loraplus_lr_embedding=1e-6, lora_target=("q_proj", "embed_tokens"))
    *_, embedding = flat_groups(attach_adapter(base.network, spec), spec)
    assert embedding.learning_rate == 1e-6
    assert sorted(name.split(".")[-2] for name in embedding.members) == ["lora_embedding_A", "lora_embedding_B"]


@pytest.mark.parametrize("targets", [("q_proj",), ("embed_tokens",), ("q_proj", "embed_tokens"), ALL_LINEAR])
@pytest.mark.parametrize("ratio", [None, 4.0])
def test_every_trained_parameter_is_in_one_group_and_no_group_is_empty(
    base: LoadedModel, targets: tuple[str, ...], ratio: float | None
) -> None:
    spec = replace(SMALL, lora_target=targets, loraplus_lr_ratio=ratio, use_dora=True)
    network = attach_adapter(base.network, spec)
    groups = flat_groups(network, spec)
    assert all(group.flat.numel() for group in groups)
    assert sorted(name for group in groups for name in group.members) == sorted(trainable_parameters(network))


def test_a_setting_that_does_nothing_is_told() -> None:
    assert len(unused_settings(replace(SMALL, loraplus_lr_ratio=2.0))) == 1
    assert unused_settings(SMALL) == []
    assert len(unused_settings(replace(SMALL, min_lr_rate=0.1, lr_scheduler_type="constant"))) == 1
    assert unused_settings(replace(SMALL, min_lr_rate=0.1)) == []
    assert unused_settings(replace(SMALL, loraplus_lr_ratio=2.0, lora_target=("embed_tokens",))) == []


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_saved_adapter_is_restored_bit_for_bit(sharp_folder: BaseModelFolder, tmp_path: Path, use_dora: bool) -> None:
    spec = replace(SMALL, use_dora=use_dora, lora_target=("q_proj", "embed_tokens"))
    network = attach_adapter(load(sharp_folder).network, spec)
    with torch.no_grad():
        for parameter in trainable_parameters(network).values():
            parameter.normal_()
    save_adapter(network, tmp_path)
    fresh = attach_adapter(load(sharp_folder).network, spec)
    restore_adapter(fresh, tmp_path)
    restored = adapter_tensors(fresh)
    assert all(torch.equal(restored[name], tensor) for name, tensor in adapter_tensors(network).items())


def test_an_adapter_folder_holds_pefts_two_files_only(base: LoadedModel, tmp_path: Path) -> None:
    save_adapter(attach_adapter(base.network, SMALL), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4


def test_a_folder_without_safetensors_is_not_loaded(base: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_adapter(base.network, tmp_path, "name")
