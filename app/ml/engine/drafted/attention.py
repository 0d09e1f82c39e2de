"""Attention of a pass's tokens over their rows of keys and values, in plain torch: padded side by side."""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from app.ml.engine.drafted.passes import PaddedLayout, PassTensors
from app.ml.engine.drafted.rows import KeyValueRows
from app.ml.engine.drafted.tree import MASK_WORDS
from app.ml.engine.packed.anatomy import Anatomy


@dataclass(frozen=True)
class PaddedMasks:
    """Which keys each query sees, the same for all layers of a kind."""

    key_places: torch.Tensor
    """[B * W] int64"""
    whole: torch.Tensor
    """[B, 1, G * Q, W] bool: the G query heads that share a key stand under each other"""
    windowed: dict[int, torch.Tensor]
    """The same within a sliding window."""


def make_masks(tokens: PassTensors, layout: PaddedLayout, rows: KeyValueRows, anatomy: Anatomy) -> PaddedMasks:
    """Builds the masks of one pass; a padded query sees its row's first key, so that nothing is undefined."""
    device = tokens.ids.device
    columns = torch.arange(layout.keys, device=device)
    shape = (layout.rows, layout.queries)

    def padded(values: torch.Tensor) -> torch.Tensor:
        out = values.new_zeros(layout.rows * layout.queries, *values.shape[1:])
        out.index_copy_(0, layout.places, values)
        return out.view(*shape, *values.shape[1:])

    linear, base, positions = padded(tokens.linear), padded(tokens.base), padded(tokens.positions)
    words = padded(tokens.words)
    behind = columns - base[..., None]
    word = words.gather(2, (behind >> 6).clamp(0, MASK_WORDS - 1))
    in_tree = (behind >= 0) & (behind < 64 * MASK_WORDS) & ((word >> (behind & 63)) & 1).bool()
    whole = (columns < linear[..., None].clamp(min=1)) | in_tree
    key_places = (layout.starts[:, None] + columns).flatten()
    share = anatomy.heads // anatomy.key_value_heads

    def folded(mask: torch.Tensor) -> torch.Tensor:
        return mask[:, None, None].expand(-1, 1, share, -1, -1).reshape(layout.rows, 1, share * layout.queries, layout.keys)

    windowed = {}
    windows = {window for window in anatomy.windows if window is not None and window < layout.keys}
    if windows:
        distance = positions[..., None] - rows.positions[key_places].view(layout.rows, 1, -1)
        windowed = {window: folded(whole & (distance < window)) for window in windows}
    return PaddedMasks(key_places, folded(whole), windowed)


def attend_padded(
    query: torch.Tensor, layer: int, layout: PaddedLayout, masks: PaddedMasks, rows: KeyValueRows, anatomy: Anatomy
) -> torch.Tensor:
    """Returns `[N, H * D]` of queries `[N, H, D]`."""
    heads, kept, size = anatomy.heads, anatomy.key_value_heads, anatomy.head_dim
    share = heads // kept
    if layout.rows == 1:
        part = slice(layout.first_start, layout.first_start + layout.keys)
        key, value = rows.keys[layer, part], rows.values[layer, part]
        padded = query
    else:
        key, value = rows.keys[layer].index_select(0, masks.key_places), rows.values[layer].index_select(0, masks.key_places)
        padded = query.new_zeros(layout.rows * layout.queries, heads, size).index_copy_(0, layout.places, query)
    # The queries that share a key stand under each other: [B, K, G * Q, D].
    folded = padded.view(layout.rows, layout.queries, kept, share, size).permute(0, 2, 3, 1, 4)
    folded = folded.reshape(layout.rows, kept, share * layout.queries, size)
    key = key.view(layout.rows, layout.keys, kept, size).transpose(1, 2)
    value = value.view(layout.rows, layout.keys, kept, size).transpose(1, 2)
    window = anatomy.windows[layer]
    mask = masks.whole if window is None else masks.windowed.get(window, masks.whole)
    if anatomy.attention_softcap is not None:
        scores = (folded @ key.transpose(2, 3)).float() * (anatomy.attention_scale / anatomy.attention_softcap)
        scores = torch.tanh(scores).mul_(anatomy.attention_softcap).masked_fill_(~mask, float("-inf"))
        out = torch.softmax(scores, dim=-1).to(value.dtype) @ value
    else:
        out = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=anatomy.attention_scale)
    out = out.view(layout.rows, kept, share, layout.queries, size).permute(0, 3, 1, 2, 4)
    out = out.reshape(layout.rows * layout.queries, heads * size)
    return out if layout.rows == 1 else out.index_select(0, layout.places)
