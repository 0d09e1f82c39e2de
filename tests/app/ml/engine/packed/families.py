"""Tiny networks of every family that the packed path runs, with weights large enough that mistakes show."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from app.ml.engine.batching import TokenRow

VOCABULARY = 260
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 256,
}
_HEAD = {"head_dim": 16}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
_SOFTCAPS: dict[str, Any] = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
FAMILIES = ("gemma", "gemma2", "gemma3", "llama", "mistral", "qwen2", "qwen3")


def make_network(family: str, *, seed: int = 0) -> Any:
    """Returns a frozen network in fp32 whose attention is transformers' plainest."""
    torch.manual_seed(seed)
    match family:
        case "gemma":
            network: Any = GemmaForCausalLM(GemmaConfig(**_SIZES, **_HEAD))
        case "gemma2":
            config2 = Gemma2Config(**_SIZES, **_HEAD, **_SOFTCAPS, query_pre_attn_scalar=24, sliding_window=8)
            config2._attn_implementation = "eager"  # the only one that squeezes its scores
            network = Gemma2ForCausalLM(config2)
        case "gemma3":
            config3 = Gemma3TextConfig(**_SIZES, **_HEAD, query_pre_attn_scalar=24, sliding_window=8, layer_types=_SLIDING)
            network = Gemma3ForCausalLM(config3)
        case "llama":
            network = LlamaForCausalLM(LlamaConfig(**_SIZES, **_HEAD))
        case "mistral":
            network = MistralForCausalLM(MistralConfig(**_SIZES, **_HEAD, sliding_window=8))
        case "qwen2":
            network = Qwen2ForCausalLM(Qwen2Config(**_SIZES))
        case "qwen3":
            network = Qwen3ForCausalLM(Qwen3Config(**_SIZES, **_HEAD))
        case _:
            raise ValueError(family)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.requires_grad_(False)


def adapt(network: Any, targets: Sequence[str] | str, *, use_dora: bool, dropout: float = 0.0) -> Any:
    """Returns the network with an adapter whose parameters are all far from their start."""
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_dora=use_dora,
        use_rslora=True,
        lora_dropout=dropout,
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(network, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return wrapped.train()


def make_rows(count: int = 7, *, seed: int = 1) -> list[TokenRow]:
    """Returns rows of many lengths."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    return [TokenRow(ids(4, 30), ids(2, 10)) for _ in range(count)]
