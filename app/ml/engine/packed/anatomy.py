"""Which networks the packed path can run, and how they differ: data read from transformers' modules, nothing copied.

Gemma 1, 2 and 3 differ from each other, and from Llama, Mistral and Qwen, in a handful of switches. A network that is
none of these runs through transformers and peft as it is (see `app.ml.engine.padded`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_FAMILIES = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"})
_ACTIVATIONS = frozenset({"gelu_pytorch_tanh", "silu"})


@dataclass(frozen=True)
class Anatomy:
    """A decoder's switches, one value for all its layers."""

    heads: int
    key_value_heads: int
    head_dim: int
    attention_scale: float
    activation: str
    """`gelu_pytorch_tanh` or `silu`."""
    norm_eps: float
    norm_offset: float
    """Gemma multiplies by 1 + weight, the others by weight."""
    embedding_scale: float
    attention_softcap: float | None
    head_softcap: float | None
    windows: tuple[int | None, ...]
    """Per layer: how far back a token attends, itself included; None: to the row's start."""
    layer_types: tuple[str, ...]


def find_anatomy(network: Any) -> Anatomy | None:
    """Returns a transformers network's anatomy, or None where the packed path cannot run it."""
    config = network.config
    if config.model_type not in _FAMILIES:
        return None
    gemma = config.model_type.startswith("gemma")
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation not in _ACTIVATIONS or getattr(config, "use_bidirectional_attention", None):
        return None
    if getattr(config, "attention_dropout", 0.0) or getattr(config, "mlp_bias", False):
        return None
    rope_types = {str(parameters.get("rope_type", "default")) for parameters in _rope_parameters(config)}
    if not rope_types <= {"default", "linear", "llama3"}:
        return None  # `dynamic` and its kin change with the batch's length
    layers = config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer_types = tuple(getattr(config, "layer_types", None) or ("full_attention",) * layers)
    if not set(layer_types) <= {"full_attention", "sliding_attention"}:
        return None
    window = getattr(config, "sliding_window", None)
    every_layer_slides = config.model_type == "mistral" and window is not None
    return Anatomy(
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        head_dim=head_dim,
        attention_scale=(getattr(config, "query_pre_attn_scalar", None) or head_dim) ** -0.5,
        activation=activation,
        norm_eps=config.rms_norm_eps,
        norm_offset=1.0 if gemma else 0.0,
        embedding_scale=config.hidden_size**0.5 if gemma else 1.0,
        attention_softcap=getattr(config, "attn_logit_softcapping", None),
        head_softcap=getattr(config, "final_logit_softcapping", None),
        windows=tuple(window if every_layer_slides or kind == "sliding_attention" else None for kind in layer_types),
        layer_types=layer_types,
    )


def rotary_of(network: Any) -> Callable[[torch.Tensor, torch.Tensor, str], tuple[torch.Tensor, torch.Tensor]]:
    """Returns transformers' own `(like, positions [1, N], layer type) -> cos, sin [1, N, head_dim]` of a network."""
    rotary = network.model.rotary_emb
    per_type = network.config.model_type == "gemma3_text"
    return rotary if per_type else lambda like, positions, _layer_type: rotary(like, positions)


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]
