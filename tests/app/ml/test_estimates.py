import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.ml.errors import BrokenModelImport, InvalidSpec, OutOfDeviceMemory
from app.ml.estimates import (
    GIB,
    BaseShapes,
    activation_bytes_per_token,
    check_smallest_run,
    check_spec_against_base,
    largest_pack,
    pack_token_budget,
    packed_peak_memory_bytes,
    read_shapes,
    smallest_run_bytes,
    trainable_parameters,
)
from app.ml.formats.token_lengths import RowLength
from app.ml.spec import PRESETS, FinetuneSpec
from tests.fixtures.zeros import CONFIG, decoder_shapes, write_safetensors

GEMMA_2B = BaseShapes(
    hidden=2048,
    intermediate=16384,
    layers=18,
    heads=8,
    key_value_heads=1,
    head_dim=256,
    vocabulary=256_000,
    context_tokens=8192,
    weight_bytes=5_012_344_832,
)
RECIPE = PRESETS["recipe"]
# Counted by hand: h twice, two norms, q k v, attention's output, gate and up; bf16.
FROZEN_LAYER = 2 * (2 * 2048 + 2 * 2048 + (2048 + 2 * 256) + 2048 + 2 * 16384)


def base_folder(place: Path, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    config = {**CONFIG, **changes} if config is None else config
    folder = place / "some-base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", decoder_shapes({**CONFIG, **changes}))
    return folder


def spec(**fields: Any) -> FinetuneSpec:
    return FinetuneSpec(**{"lora_rank": 8, "lora_target": ("q_proj", "v_proj"), **fields})


class TestWhetherASpecCanWork:
    def test_a_spec_that_fits_gives_the_shapes(self, tmp_path: Path) -> None:
        folder = base_folder(tmp_path)

        assert check_spec_against_base(folder, spec()) == read_shapes(folder)

    def test_gpt_2_has_none_of_the_modules(self, tmp_path: Path) -> None:
        folder = tmp_path / "gpt2"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12}))
        names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc")
        write_safetensors(folder / "model.safetensors", {f"h.0.{name}.weight": [768, 2304] for name in names})

        with pytest.raises(InvalidSpec, match=r"no module q_proj, v_proj.*c_attn") as caught:
            check_spec_against_base(folder, spec())

        assert caught.value.param == "lora_target"

    def test_the_missing_modules_alone_are_named(self, tmp_path: Path) -> None:
        folder = tmp_path / "phi"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        write_safetensors(
            folder / "model.safetensors", {"layers.0.o_proj.weight": [128, 128], "layers.0.qkv_proj.weight": [384, 128]}
        )

        with pytest.raises(InvalidSpec, match=r"no module q_proj\."):
            check_spec_against_base(folder, spec(lora_target=("q_proj", "o_proj")))

    @pytest.mark.parametrize(
        ("targets", "highest"),
        [
            (("q_proj",), 128),
            (("q_proj", "k_proj"), 16),
            (("down_proj",), 128),
            (("embed_tokens",), 128),
            (("v_proj", "up_proj"), 16),
        ],
    )
    def test_a_rank_may_be_as_high_as_the_narrowest_target_is_wide(
        self, tmp_path: Path, targets: tuple[str, ...], highest: int
    ) -> None:
        folder = base_folder(tmp_path, head_dim=16, num_attention_heads=8)

        check_spec_against_base(folder, spec(lora_rank=highest, lora_target=targets))
        with pytest.raises(InvalidSpec, match=f"at most {highest}") as caught:
            check_spec_against_base(folder, spec(lora_rank=highest + 1, lora_target=targets))

        assert caught.value.param == "lora_rank"

    def test_a_cut_off_may_be_as_long_as_the_context(self, tmp_path: Path) -> None:
        folder = base_folder(tmp_path, max_position_embeddings=600)

        check_spec_against_base(folder, spec(cutoff_len=600))
        with pytest.raises(InvalidSpec, match="600") as caught:
            check_spec_against_base(folder, spec(cutoff_len=601))

        assert caught.value.param == "cutoff_len"

    def test_a_base_model_that_names_no_context_takes_any_cut_off(self, tmp_path: Path) -> None:
        check_spec_against_base(base_folder(tmp_path, max_position_embeddings=None), spec(cutoff_len=8192))

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"hidden_size": 1}', '{"text_config": 3}', '{"hidden_size": 8, "num_attention_heads": 0}']
    )
    def test_a_config_that_is_no_decoders_is_refused(self, tmp_path: Path, text: str) -> None:
        folder = base_folder(tmp_path)
        (folder / "config.json").write_text(text)

        with pytest.raises(BrokenModelImport, match="some-base"):
            check_spec_against_base(folder, spec())

    def test_a_config_of_a_larger_whole_is_read_where_its_text_model_stands(self, tmp_path: Path) -> None:
        folder = base_folder(tmp_path, {"model_type": "gemma3", "text_config": {**CONFIG, "intermediate_size": [256, 512]}})

        assert (read_shapes(folder).hidden, read_shapes(folder).intermediate) == (128, 512)


class TestTrainableNumbers:
    def test_they_are_those_that_a_hand_counts(self) -> None:
        # gemma-2b, rank 128: r (in + out) of q, k, v in 18 layers, and one magnitude an output.
        by_hand = 18 * (128 * ((2048 + 2048) + 2 * (2048 + 256)) + 2048 + 2 * 256)

        assert trainable_parameters(GEMMA_2B, RECIPE) == by_hand

    def test_an_embedding_counts_once(self) -> None:
        assert trainable_parameters(GEMMA_2B, spec(lora_target=("embed_tokens",))) == 8 * (256_000 + 2048)


class TestActivations:
    def test_a_token_of_plain_lora_keeps_what_a_hand_counts(self) -> None:
        assert activation_bytes_per_token(GEMMA_2B, spec(), 2) == 18 * (FROZEN_LAYER + 2 * 2 * 8)

    def test_fp32_keeps_twice_as_much(self) -> None:
        plain = spec()

        assert activation_bytes_per_token(GEMMA_2B, plain, 4) == 2 * activation_bytes_per_token(GEMMA_2B, plain, 2)

    def test_dropout_keeps_a_byte_an_input(self) -> None:
        more = activation_bytes_per_token(GEMMA_2B, spec(lora_dropout=0.1), 2) - activation_bytes_per_token(GEMMA_2B, spec(), 2)

        assert more == 18 * 2 * 2048

    def test_dora_keeps_each_targets_output(self) -> None:
        more = activation_bytes_per_token(GEMMA_2B, spec(use_dora=True), 2) - activation_bytes_per_token(GEMMA_2B, spec(), 2)

        assert more == 18 * 2 * (2048 + 256)

    def test_an_adapter_on_down_proj_keeps_its_input(self) -> None:
        more = activation_bytes_per_token(GEMMA_2B, spec(lora_target=("q_proj", "v_proj", "down_proj")), 2)

        assert more - activation_bytes_per_token(GEMMA_2B, spec(), 2) == 18 * 2 * (16384 + 8)

    def test_an_adapter_on_the_embedding_keeps_one_product(self) -> None:
        more = activation_bytes_per_token(GEMMA_2B, spec(lora_target=("q_proj", "v_proj", "embed_tokens")), 2)

        assert more - activation_bytes_per_token(GEMMA_2B, spec(), 2) == 2 * 8

    def test_checkpointing_keeps_one_hidden_state_a_layer_and_one_layers_worth(self) -> None:
        kept = activation_bytes_per_token(GEMMA_2B, spec(), 2, is_checkpointing=True)

        assert kept == 18 * 2 * 2048 + FROZEN_LAYER + 2 * 2 * 8


class TestPeakMemory:
    def test_the_recipe_on_gemma_2b_is_near_what_was_measured(self) -> None:
        # 64 rows with DoRA in one pack: 9 to 11 GiB.
        assert 9 < packed_peak_memory_bytes(GEMMA_2B, RECIPE, 2300, 600) / GIB < 11

    def test_it_grows_with_tokens_rank_and_width(self) -> None:
        least = packed_peak_memory_bytes(GEMMA_2B, RECIPE, 1000, 100)

        assert packed_peak_memory_bytes(GEMMA_2B, RECIPE, 1001, 100) > least
        assert packed_peak_memory_bytes(GEMMA_2B, RECIPE, 1000, 101) > least
        assert packed_peak_memory_bytes(GEMMA_2B, replace(RECIPE, lora_rank=129), 1000, 100) > least
        assert packed_peak_memory_bytes(GEMMA_2B, RECIPE, 1000, 100, is_fp32=True) > 1.8 * least
        assert packed_peak_memory_bytes(GEMMA_2B, RECIPE, 1000, 100, is_checkpointing=True) < least

    @pytest.mark.parametrize("limit_gib", [8, 16, 24])
    def test_a_pack_of_the_budget_fits_and_one_token_more_does_not(self, limit_gib: int) -> None:
        tokens = pack_token_budget(GEMMA_2B, RECIPE, limit_gib * GIB)

        assert packed_peak_memory_bytes(GEMMA_2B, RECIPE, tokens, tokens) <= limit_gib * GIB
        assert packed_peak_memory_bytes(GEMMA_2B, RECIPE, tokens + 1, tokens) > limit_gib * GIB

    def test_there_is_no_budget_below_the_weights(self) -> None:
        assert pack_token_budget(GEMMA_2B, RECIPE, 4 * GIB) == 0


class TestTheLargestPack:
    ROWS = tuple(RowLength(prompt, 2) for prompt in (8, 98, 18, 48))

    def test_a_step_takes_its_longest_rows(self) -> None:
        assert largest_pack(self.ROWS, spec(per_device_train_batch_size=2, gradient_accumulation_steps=1), 1000) == (150, 4)

    def test_it_is_cut_at_the_budget(self) -> None:
        assert largest_pack(self.ROWS, spec(), 155) == (150, 4)

    def test_a_row_longer_than_the_budget_is_a_pack(self) -> None:
        assert largest_pack(self.ROWS, spec(), 10) == (100, 2)

    def test_a_row_counts_as_far_as_the_cut_off(self) -> None:
        assert largest_pack(self.ROWS, spec(cutoff_len=40), 1000) == (40 + 40 + 20 + 10, 8)


class TestTheSmallestRun:
    @staticmethod
    def refused(limit_bytes: float, *, row_tokens: int = 3, **fields: Any) -> str | None:
        with pytest.raises(OutOfDeviceMemory, match="DIANDA_MEMORY_LIMIT_GIB") as caught:
            check_smallest_run(GEMMA_2B, replace(RECIPE, **fields), int(limit_bytes), row_tokens=row_tokens)
        return caught.value.param

    def test_what_fits_passes(self) -> None:
        check_smallest_run(GEMMA_2B, RECIPE, smallest_run_bytes(GEMMA_2B, RECIPE, 512), row_tokens=512)

    def test_weights_that_do_not_fit_are_the_models_fault(self) -> None:
        assert self.refused(4 * GIB) == "model"

    def test_fp32_is_to_blame_where_bf16_would_fit(self) -> None:
        assert self.refused(8 * GIB, precision="fp32") == "precision"

    def test_a_rank_is_to_blame_where_the_weights_would_fit(self) -> None:
        assert self.refused(5.5 * GIB, lora_rank=256, lora_target=("q_proj", "gate_proj", "up_proj", "down_proj")) == "lora_rank"

    def test_a_cut_off_is_to_blame_where_short_rows_would_fit(self) -> None:
        limit = smallest_run_bytes(GEMMA_2B, RECIPE, 100)

        assert self.refused(limit, row_tokens=101) == "cutoff_len"
