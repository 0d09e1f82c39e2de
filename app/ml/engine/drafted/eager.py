"""The steps of a pass in plain torch: any device, questions padded side by side for attention alone."""

import torch

from app.ml.engine.drafted import host_norms
from app.ml.engine.drafted.attention import attend_padded, make_masks
from app.ml.engine.drafted.network import CachedNetwork, SlotLayer
from app.ml.engine.drafted.passes import PaddedLayout, PassTensors
from app.ml.engine.drafted.rows import KeyValueRows


class EagerSteps:
    """The `Steps` of one pass."""

    def __init__(self, network: CachedNetwork, rows: KeyValueRows, tokens: PassTensors, layout: PaddedLayout) -> None:
        """Prepares what all layers share."""
        self._anatomy, self._rows, self._tokens, self._layout = network.anatomy, rows, tokens, layout
        rows.positions.index_copy_(0, tokens.places, tokens.positions)
        self._masks = make_masks(tokens, layout, rows, network.anatomy)
        self._angles = {kind: table.index_select(0, tokens.positions) for kind, table in network.angles.items()}
        self._norms_on_host = host_norms.serves(network.device, network.dtype)

    def shrink(self, x: torch.Tensor, slots: SlotLayer, layer: int) -> torch.Tensor:
        """Leaves everything to `expand`."""
        return x

    def expand(self, y: torch.Tensor, low: torch.Tensor, slots: SlotLayer, layer: int) -> None:
        """Applies each adapter to its tokens in place."""
        for segment in self._layout.segments:
            views, part = slots.views(layer, segment.slot), slice(segment.start, segment.stop)
            own, inner = y[part], low[part] @ views.a
            for columns, of_target, b in zip(slots.columns, torch.split(inner, slots.rank, dim=1), views.b, strict=True):
                own[:, columns].addmm_(of_target, b)
            if views.gain is not None:
                own.mul_(views.gain)

    def rotate_store(self, heads: torch.Tensor, gain: torch.Tensor | None, eps: float, layer: int) -> torch.Tensor:
        """Norms, rotates, stores keys and values, returns the queries."""
        anatomy, rows, places = self._anatomy, self._rows, self._tokens.places
        count = anatomy.heads + anatomy.key_value_heads
        angles = self._angles[anatomy.layer_types[layer]]
        if gain is not None and self._norms_on_host:
            turned = host_norms.norm_rotate(heads, gain, eps, angles)
        else:
            turned = norm_rotate(heads[:, :count], gain, eps, angles)
        rows.keys[layer].index_copy_(0, places, turned[:, anatomy.heads :].flatten(1))
        rows.values[layer].index_copy_(0, places, heads[:, count:].flatten(1))
        return turned[:, : anatomy.heads]

    def attend(self, query: torch.Tensor, layer: int) -> torch.Tensor:
        """Attends over the rows."""
        return attend_padded(query, layer, self._layout, self._masks, self._rows, self._anatomy)

    def gate(self, both: torch.Tensor, activation: str) -> torch.Tensor:
        """Gates."""
        gate, up = both.chunk(2, dim=1)
        if activation == "silu":
            return torch.nn.functional.silu(gate) * up
        return torch.nn.functional.gelu(gate, approximate="tanh") * up

    def gated_product(self, x: torch.Tensor, weight: torch.Tensor, activation: str) -> torch.Tensor:
        """Multiplies and gates."""
        return self.gate(torch.nn.functional.linear(x, weight), activation)


def norm_rotate(heads: torch.Tensor, gain: torch.Tensor | None, eps: float, angles: torch.Tensor) -> torch.Tensor:
    """Returns heads `[N, C, D]`, normed where there is a gain `[C, D]` and rotated by `angles` `[N, D]`: cosines, then sines."""
    if gain is not None:
        scale = torch.rsqrt(heads.float().square().mean(-1, keepdim=True) + eps)
        heads = (heads * scale * gain).to(heads.dtype)
    cos, sin = angles[:, None].chunk(2, dim=-1)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
