"""The steps of a pass in plain torch: any device, questions padded side by side for attention alone."""

import torch

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
        self._angles = {}
        for kind, table in network.angles.items():
            cos, sin = table.index_select(0, tokens.positions)[:, None].chunk(2, dim=-1)
            self._angles[kind] = (cos, sin)

    def shrink(self, x: torch.Tensor, slots: SlotLayer, layer: int) -> torch.Tensor:
        """Leaves everything to `expand`."""
        return x

    def expand(self, y: torch.Tensor, low: torch.Tensor, slots: SlotLayer, layer: int) -> None:
        """Applies each adapter to its tokens in place."""
        for segment in self._layout.segments:
            part = slice(segment.start, segment.stop)
            inner = low[part] @ slots.factor_a[layer, segment.slot].T
            own, scaled_b = y[part], slots.scaled_b[layer, segment.slot]
            for place, columns in enumerate(slots.columns):
                own[:, columns].addmm_(inner[:, place * slots.rank : (place + 1) * slots.rank], scaled_b[columns].T)
            if slots.gain is not None:
                own.mul_(slots.gain[layer, segment.slot])

    def rotate_store(self, heads: torch.Tensor, gain: torch.Tensor | None, eps: float, layer: int) -> torch.Tensor:
        """Norms, rotates, stores keys and values, returns the queries."""
        anatomy, rows, places = self._anatomy, self._rows, self._tokens.places
        count = anatomy.heads + anatomy.key_value_heads
        turned = heads[:, :count]
        if gain is not None:
            scale = torch.rsqrt(turned.float().square().mean(-1, keepdim=True) + eps)
            turned = (turned * scale * gain).to(heads.dtype)
        cos, sin = self._angles[anatomy.layer_types[layer]]
        first, second = turned.chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
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
