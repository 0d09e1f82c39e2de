"""What a fine-tuning run will need, and whether it can work at all, from the base model's files; no torch.

The memory arithmetic is that of the packed engine: the rows of a step lie one after the other, without padding, in packs
of so many tokens as the memory has room for.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.ml.errors import BrokenModelImport, InvalidSpec, OutOfDeviceMemory
from app.ml.formats.token_lengths import MIN_PROMPT_TOKENS, RowLength
from app.ml.spec import FinetuneSpec
from app.ml.weight_headers import read_modules

GIB = 2**30
_BF16, _FP32 = 2, 4
# fp32 weight, gradient and AdamW's two moments of each trainable number.
_TRAINABLE_BYTES = 16
# peft keeps 3.35 MiB a token of gemma-2b where a pack keeps 1.6 (torch 2.13, transformers 5.23, peft 0.21), and logits of
# the whole batch come on top.
_PADDED_OVER_PACKED = 3
# bf16 logits, their fp32 copy and its gradient.
_LOGIT_BYTES = 10
# The head works on so much of the logits at a time.
_HEAD_WORKSPACE_BYTES = int(0.6 * GIB)
# Intermediate-wide tensors that live at once within one layer's MLP, forward or backward.
_ELEMENTWISE_TENSORS = 4
# Tokens of a pack where nobody told how much memory there is.
PACK_TOKENS = 4096


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

    @property
    def attention(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all key heads together, which is that of the value heads."""
        return self.key_value_heads * self.head_dim

    def sides(self, target: str) -> tuple[int, int]:
        """Returns inputs and outputs of a target module in each layer; of `embed_tokens` vocabulary and width."""
        return {
            "q_proj": (self.hidden, self.attention),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.attention, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
            "embed_tokens": (self.vocabulary, self.hidden),
        }[target]


def read_shapes(folder: Path) -> BaseShapes:
    """Reads a base model's folder in the store.

    Raises:
        BrokenModelImport: its config is not that of a decoder.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        return shapes_of(config, weight_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise BrokenModelImport(
            f"The config.json of base model {folder.name!r} lacks what a fine-tuning run needs ({error}).", param="model"
        ) from error


def shapes_of(config: Mapping[str, Any], *, weight_bytes: int) -> BaseShapes:
    """Reads transformers' config of a decoder; fails like a mapping does where it is none."""
    config = config.get("text_config") or config
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    # OPT's name of it; Gemma 3n has a list with one number a layer.
    intermediate = config.get("intermediate_size") or config["ffn_dim"]
    return BaseShapes(
        hidden=hidden,
        intermediate=max(intermediate) if isinstance(intermediate, list) else intermediate,
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        vocabulary=config["vocab_size"],
        context_tokens=config.get("max_position_embeddings"),
        weight_bytes=weight_bytes,
    )


def check_spec_against_base(folder: Path, spec: FinetuneSpec) -> BaseShapes:
    """Refuses a spec that cannot work on the base model in a folder of the store; returns the model's shapes.

    `param` of what is raised is the spec's own field.

    Raises:
        InvalidSpec: the base model lacks a target module, the rank is above a target's width, or the cut-off above the
            context.
        BrokenModelImport: the folder's files cannot be read.
    """
    modules = read_modules(folder)
    missing = [target for target in spec.lora_target if target not in modules]
    if missing:
        raise InvalidSpec(
            f"Base model {folder.name!r} has no module {', '.join(missing)}. It has: {', '.join(sorted(modules))}.",
            param="lora_target",
        )
    narrowest = min(spec.lora_target, key=lambda target: min(modules[target]))
    width = min(modules[narrowest])
    if spec.lora_rank > width:
        sides = " x ".join(map(str, modules[narrowest]))
        raise InvalidSpec(
            f"lora_rank {spec.lora_rank} is above the smaller side of {narrowest} ({sides}): the product of its factors "
            f"cannot have such a rank. Use at most {width}, or leave {narrowest} out of lora_target.",
            param="lora_rank",
        )
    shapes = read_shapes(folder)
    if shapes.context_tokens is not None and spec.cutoff_len > shapes.context_tokens:
        raise InvalidSpec(
            f"cutoff_len {spec.cutoff_len} is above this base model's context of {shapes.context_tokens} tokens.",
            param="cutoff_len",
        )
    return shapes


def trainable_parameters(shapes: BaseShapes, spec: FinetuneSpec) -> int:
    """Returns how many numbers train: r (in + out) a target, and with DoRA one magnitude an output."""
    total = 0
    for target in spec.lora_target:
        inputs, outputs = shapes.sides(target)
        numbers = spec.lora_rank * (inputs + outputs) + (outputs if spec.use_dora else 0)
        total += numbers if target == "embed_tokens" else shapes.layers * numbers
    return total


def activation_bytes_per_token(shapes: BaseShapes, spec: FinetuneSpec, width_bytes: int, is_checkpointing: bool = False) -> int:
    """Returns what a token of a pack keeps from the forward pass until its backward pass, over all layers.

    `width_bytes`: of one number, 2 in bf16 and 4 in fp32. With checkpointing each layer keeps its input alone, and one
    layer at a time is computed again.
    """
    layer = _layer_numbers(shapes, spec) * width_bytes + _dropout_mask_bytes(shapes, spec)
    kept = shapes.layers * shapes.hidden * width_bytes + layer if is_checkpointing else shapes.layers * layer
    if "embed_tokens" in spec.lora_target:
        kept += (spec.lora_rank + (shapes.hidden if spec.use_dora else 0)) * width_bytes
    return kept


def packed_peak_memory_bytes(
    shapes: BaseShapes,
    spec: FinetuneSpec,
    tokens: int,
    answer_tokens: int,
    *,
    is_fp32: bool = False,
    is_checkpointing: bool = False,
) -> int:
    """Returns the most memory that a step takes whose largest pack has `tokens`, `answer_tokens` of them in answers.

    The sum of the frozen weights, the trainable state, what the pack keeps for its backward pass, and the workspaces of
    head and MLP. What the device's driver takes for itself comes on top.
    """
    width = _FP32 if is_fp32 else _BF16
    head = min(_HEAD_WORKSPACE_BYTES, answer_tokens * shapes.vocabulary * _LOGIT_BYTES)
    return _resident_bytes(shapes, spec, width) + head + tokens * _bytes_per_token(shapes, spec, width, is_checkpointing)


def pack_token_budget(
    shapes: BaseShapes, spec: FinetuneSpec, memory_bytes: int, *, is_fp32: bool = False, is_checkpointing: bool = False
) -> int:
    """Returns how many tokens a pack may have so that a step's peak stays within `memory_bytes`; 0 if not even one may."""
    width = _FP32 if is_fp32 else _BF16
    room = memory_bytes - _resident_bytes(shapes, spec, width) - _HEAD_WORKSPACE_BYTES
    return max(0, room // _bytes_per_token(shapes, spec, width, is_checkpointing))


def tokens_that_fit(
    shapes: BaseShapes, spec: FinetuneSpec, free_bytes: int, *, is_fp32: bool = False, is_packed: bool = True
) -> int:
    """Returns how many tokens a pack may have on a device that holds the frozen weights already and has `free_bytes` left.

    `is_packed` False: through transformers and peft, which keep more of each token.
    """
    width = _FP32 if is_fp32 else _BF16
    copies = width if width == _BF16 else 0
    state = trainable_parameters(shapes, spec) * (_TRAINABLE_BYTES + copies)
    room = free_bytes - state - _HEAD_WORKSPACE_BYTES
    each = _bytes_per_token(shapes, spec, width, spec.gradient_checkpointing)
    return max(0, room // (each if is_packed else each * _PADDED_OVER_PACKED))


def largest_pack(rows: Sequence[RowLength], spec: FinetuneSpec, token_budget: int) -> tuple[int, int]:
    """Returns tokens and answer tokens of the largest pack that a step can have: its longest rows, cut at the budget.

    A pack has at least one row, however long.
    """
    longest = sorted(rows, key=lambda row: row.trained(spec.cutoff_len), reverse=True)[: spec.effective_batch_size]
    tokens = answer_tokens = 0
    for row in longest:
        length = row.trained(spec.cutoff_len)
        if tokens and tokens + length > token_budget:
            break
        tokens += length
        answer_tokens += row.answer
    return tokens, answer_tokens


def check_smallest_run(
    shapes: BaseShapes, spec: FinetuneSpec, limit_bytes: int, *, row_tokens: int = MIN_PROMPT_TOKENS + 1
) -> None:
    """Refuses a spec whose smallest possible step passes a memory limit: one row a pack, every layer checkpointed.

    `row_tokens`: of the longest row. `precision="auto"` counts as bf16. `param` names the field that has to change.

    Raises:
        OutOfDeviceMemory: it cannot fit.
    """
    is_fp32 = spec.precision == "fp32"
    needed = smallest_run_bytes(shapes, spec, row_tokens)
    if needed <= limit_bytes:
        return
    weights = shapes.weight_bytes * (2 if is_fp32 else 1)
    if is_fp32 and smallest_run_bytes(shapes, replace(spec, precision="bf16"), row_tokens) <= limit_bytes:
        param, advice = "precision", 'Set precision to "auto" or "bf16".'
    elif weights > limit_bytes:
        param, advice = "model", f"The weights alone take {gib(weights)} GiB: choose a smaller base model."
    elif smallest_run_bytes(shapes, spec, MIN_PROMPT_TOKENS + 1) > limit_bytes:
        param, advice = "lora_rank", f"{trainable_parameters(shapes, spec):,} numbers would train: lower lora_rank."
    else:
        param, advice = "cutoff_len", f"The longest row has {row_tokens} tokens: lower cutoff_len."
    raise OutOfDeviceMemory(
        f"The smallest possible step needs about {gib(needed)} GiB, and a training process may take "
        f"{limit_bytes / GIB:.4g} (DIANDA_MEMORY_LIMIT_GIB, or its part of a shared card). {advice}",
        param=param,
    )


def smallest_run_bytes(shapes: BaseShapes, spec: FinetuneSpec, row_tokens: int) -> int:
    """Returns the peak of a step whose packs hold one row each, with every layer checkpointed."""
    is_fp32 = spec.precision == "fp32"
    return packed_peak_memory_bytes(shapes, spec, row_tokens, 1, is_fp32=is_fp32, is_checkpointing=True)


def gib(size_bytes: int) -> float:
    """Returns GiB, rounded up to a tenth."""
    return math.ceil(size_bytes / GIB * 10) / 10


def _layer_numbers(shapes: BaseShapes, spec: FinetuneSpec) -> int:
    """Returns how many numbers of the arithmetic's width a token keeps in one layer."""
    numbers = (
        2 * shapes.hidden  # the residual stream before attention and before the MLP
        + 2 * shapes.hidden  # the outputs of both norms
        + shapes.attention  # queries
        + 2 * shapes.key_value
        + shapes.attention  # attention's output
        + 2 * shapes.intermediate  # gate and up
    )
    targets = _layer_targets(spec)
    if "down_proj" in targets:
        numbers += shapes.intermediate  # the activated product; a frozen down_proj needs no input for its backward pass
    numbers += len(targets) * spec.lora_rank  # A x
    if spec.use_dora:
        numbers += sum(shapes.sides(target)[1] for target in targets)  # what each magnitude scales
    return numbers


def _dropout_mask_bytes(shapes: BaseShapes, spec: FinetuneSpec) -> int:
    """Returns a token's dropout masks in one layer, one byte a number."""
    if spec.lora_dropout == 0:
        return 0
    return sum(shapes.sides(target)[0] for target in _layer_targets(spec))


def _layer_targets(spec: FinetuneSpec) -> list[str]:
    return [target for target in spec.lora_target if target != "embed_tokens"]


def _resident_bytes(shapes: BaseShapes, spec: FinetuneSpec, width: int) -> int:
    """Returns what lies in memory whatever the pack: weights, trainable state, and bf16 copies of what trains."""
    copies = width if width == _BF16 else 0
    return shapes.weight_bytes * width // _BF16 + trainable_parameters(shapes, spec) * (_TRAINABLE_BYTES + copies)


def _bytes_per_token(shapes: BaseShapes, spec: FinetuneSpec, width: int, is_checkpointing: bool) -> int:
    return activation_bytes_per_token(shapes, spec, width, is_checkpointing) + _ELEMENTWISE_TENSORS * shapes.intermediate * width
