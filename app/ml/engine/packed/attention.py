"""Causal attention over padded rows: padding stands after a row's tokens, so causality alone hides it."""

from contextlib import nullcontext

import torch
from torch.nn.functional import scaled_dot_product_attention

from app.ml.engine.device import masked_attention
from app.ml.engine.packed.anatomy import Anatomy


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, anatomy: Anatomy, layer: int) -> torch.Tensor:
    """Returns `[B * T, H * D]` of query `[B, T, H, D]`, key and value `[B, T, K, D]`."""
    rows, width = query.shape[:2]
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    window = anatomy.windows[layer]
    slides = window is not None and window < width
    if anatomy.attention_softcap is not None:
        out = _capped(query, key, value, anatomy, window if slides else None)
    else:
        mask = _window_mask(width, window, query.device) if slides and window is not None else None
        with nullcontext() if mask is None else masked_attention():
            out = scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=mask is None,
                scale=anatomy.attention_scale,
                enable_gqa=anatomy.heads != anatomy.key_value_heads,
            )
    return out.transpose(1, 2).reshape(rows * width, anatomy.heads * anatomy.head_dim)


def _capped(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, anatomy: Anatomy, window: int | None) -> torch.Tensor:
    # Gemma 2 squeezes its scores through tanh, which no fused kernel of torch does.
    cap, repeats = anatomy.attention_softcap, anatomy.heads // anatomy.key_value_heads
    assert cap is not None
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = torch.tanh(query @ key.transpose(2, 3) * (anatomy.attention_scale / cap)) * cap
    width = scores.shape[-1]
    mask = _window_mask(width, window or width, scores.device)
    weights = torch.softmax(scores.float().masked_fill(~mask, float("-inf")), dim=-1).to(value.dtype)
    return weights @ value


def _window_mask(width: int, window: int, device: torch.device) -> torch.Tensor:
    """Returns `[T, T]` bool: token i sees j where i - window < j <= i."""
    ones = torch.ones(width, width, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window)
