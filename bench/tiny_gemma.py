"""A two-layer Gemma with a byte tokenizer, made here: no download, milliseconds to load.

For tests, and for benchmarks of what stands around a model.
"""

from pathlib import Path

from app.durable import seal_folder
from app.ml.model_store import BaseModelFolder
from app.ml.tokens import write_special_ids

TINY = "tiny-gemma"
BOS, EOS, PAD = 256, 257, 258


def write_tiny_model(folder: Path, *, seed: int = 0) -> BaseModelFolder:
    """Writes a sealed base model folder: Gemma 3's architecture with 2 layers of width 32, one token a byte."""
    import torch  # noqa: PLC0415  # whoever needs only the names has no torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig  # noqa: PLC0415

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=32,
        max_position_embeddings=1024,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        layer_types=["sliding_attention", "full_attention"],
    )
    network = Gemma3ForCausalLM(config)
    # Random weights of the default scale answer almost uniformly; this scale gives the tests clear winners.
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    network.save_pretrained(folder)
    write_byte_tokenizer(folder)
    return BaseModelFolder(folder.name, folder, seal_folder(folder))


def write_byte_tokenizer(folder: Path) -> None:
    """Writes a tokenizer with one token a byte; needs no torch."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    vocabulary = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_special_ids(folder, bos_id=BOS, eos_id=EOS, pad_id=PAD)
