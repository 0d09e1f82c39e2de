"""What a fine-tuning run will need, from the base model's config and the rows' tokens alone; no torch.

Coarse on purpose: enough to say "this will not fit" before a GPU minute is spent.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.ml.errors import InvalidSpec
from app.ml.spec import FinetuneSpec

_GIB = 2**30
# fp32 weight, gradient and AdamW's two moments of each trainable number.
_TRAINABLE_BYTES = 16
# Kept for backward by transformers + peft, a token and layer, bf16: fits the measured 3.35 MiB a token of gemma-2b with DoRA
# and dropout over its 18 layers; plain LoRA measured 2.58 MiB (torch 2.13, transformers 5.23, peft 0.21).
_BYTES_PER_HIDDEN, _BYTES_PER_INTERMEDIATE = 30, 8
_PLAIN_LORA_SHARE = 0.77
# bf16 logits, their fp32 copy and its gradient.
_LOGIT_BYTES = 10


@dataclass(frozen=True)
class BaseShapes:
    """The numbers of a base model's `config.json` that estimates need."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    context_tokens: int | None
    weight_bytes: int
    """Size of the weights in the store, bf16."""


def read_shapes(folder: Path) -> BaseShapes:
    """Reads a base model's folder in the store."""
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    heads = config["num_attention_heads"]
    return BaseShapes(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads", heads),
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocabulary=config["vocab_size"],
        context_tokens=config.get("max_position_embeddings"),
        weight_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
    )


def trainable_parameters(shapes: BaseShapes, spec: FinetuneSpec) -> int:
    """Returns how many numbers train: r (in + out) a target, and with DoRA one magnitude an output."""
    attention, groups = shapes.heads * shapes.head_dim, shapes.key_value_heads * shapes.head_dim
    sizes = {
        "q_proj": (shapes.hidden, attention),
        "k_proj": (shapes.hidden, groups),
        "v_proj": (shapes.hidden, groups),
        "o_proj": (attention, shapes.hidden),
        "gate_proj": (shapes.hidden, shapes.intermediate),
        "up_proj": (shapes.hidden, shapes.intermediate),
        "down_proj": (shapes.intermediate, shapes.hidden),
    }
    total = 0
    for target in spec.lora_target:
        if target == "embed_tokens":
            total += spec.lora_rank * (shapes.vocabulary + shapes.hidden) + (shapes.hidden if spec.use_dora else 0)
        else:
            inputs, outputs = sizes[target]
            total += shapes.layers * (spec.lora_rank * (inputs + outputs) + (outputs if spec.use_dora else 0))
    return total


def check_against_shapes(shapes: BaseShapes, spec: FinetuneSpec, *, param_prefix: str = "") -> None:
    """Refuses a spec that cannot work on a base model.

    Raises:
        InvalidSpec: the rank is above a layer's width, or the cut-off above the context.
    """
    if spec.lora_rank > shapes.hidden:
        raise InvalidSpec(
            f"lora_rank {spec.lora_rank} is above the layers' width of {shapes.hidden}.", param=f"{param_prefix}lora_rank"
        )
    if shapes.context_tokens is not None and spec.cutoff_len > shapes.context_tokens:
        raise InvalidSpec(
            f"cutoff_len {spec.cutoff_len} is above this base model's context of {shapes.context_tokens} tokens.",
            param=f"{param_prefix}cutoff_len",
        )


def peak_memory_bytes(
    shapes: BaseShapes, spec: FinetuneSpec, *, row_tokens: Sequence[int], answer_tokens: Sequence[int], is_fp32: bool
) -> int:
    """Estimates the most memory of a training step: weights, trainable state, activations and logits of the longest batch."""
    width = 2 if is_fp32 else 1
    rows = min(spec.per_device_train_batch_size, len(row_tokens))
    # Padded to the longest row: the worst batch holds the longest rows.
    padded = rows * max(row_tokens)
    answers = sum(sorted(answer_tokens, reverse=True)[:rows])
    share = 1.0 if spec.use_dora or spec.lora_dropout > 0 else _PLAIN_LORA_SHARE
    layer = shapes.hidden * _BYTES_PER_HIDDEN + shapes.intermediate * _BYTES_PER_INTERMEDIATE
    activations = int(padded * shapes.layers * layer * share) * width
    logits = answers * shapes.vocabulary * _LOGIT_BYTES
    return shapes.weight_bytes * width + trainable_parameters(shapes, spec) * _TRAINABLE_BYTES + activations + logits


def gib(size_bytes: int) -> float:
    """Returns GiB, rounded up to a tenth."""
    return math.ceil(size_bytes / _GIB * 10) / 10
