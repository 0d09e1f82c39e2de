"""A decoder's forward pass over one pass's tokens, on transformers' own weights, with each token's own adapter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from app.ml.engine.drafted import host_norms
from app.ml.engine.drafted.passes import PassTensors
from app.ml.engine.drafted.rows import KeyValueRows
from app.ml.engine.drafted.short_products import lay_out, product
from app.ml.engine.drafted.trie import choose
from app.ml.engine.packed.anatomy import Anatomy, rotary_of
from app.ml.engine.packed.fused import passes_for
from app.ml.engine.packed.norms import gain_of
from app.ml.engine.packed.stacking import stack_weights

LINEAR_LAYERS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "out": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The fused linear layers and whose weights stand under each other in them."""


@dataclass(frozen=True)
class SlotLayer:
    """All slots' factors of one fused linear layer."""

    targets: tuple[str, ...]
    columns: tuple[slice, ...]
    """Which outputs each target has."""
    rank: int
    factor_a: torch.Tensor
    """[L, slots, m * r, I]"""
    scaled_b: torch.Tensor
    """[L, slots, O, r]: s B; zero where a target has no adapter"""
    gain: torch.Tensor | None
    """[L, slots, O] fp32: g; None where no adapter has DoRA"""
    _views: dict[tuple[int, int], "SlotViews"] = field(default_factory=dict, repr=False, compare=False)

    def views(self, layer: int, slot: int) -> "SlotViews":
        """Returns one adapter's factors in one layer; to cut them out anew for each pass costs as much as the products."""
        found = self._views.get((layer, slot))
        if found is None:
            scaled_b = self.scaled_b[layer, slot]
            found = self._views[layer, slot] = SlotViews(
                self.factor_a[layer, slot].T,
                tuple(scaled_b[columns].T for columns in self.columns),
                None if self.gain is None else self.gain[layer, slot],
            )
        return found


@dataclass(frozen=True)
class SlotViews:
    """Views of an adapter's factors in one fused linear layer."""

    a: torch.Tensor
    """[I, m * r]"""
    b: tuple[torch.Tensor, ...]
    """[r, O of the target] each"""
    gain: torch.Tensor | None
    """[O] fp32"""


@dataclass(frozen=True)
class _Linear:
    weight: torch.Tensor
    bias: torch.Tensor | None
    laid_out: torch.Tensor | None = None
    """The weight once more, for short products on a CPU."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.laid_out is not None:
            return product(x, self.laid_out)
        return torch.nn.functional.linear(x, self.weight)


@dataclass(frozen=True)
class _Layer:
    linear: Mapping[str, _Linear]
    before_attention: torch.Tensor
    after_attention: torch.Tensor | None
    before_mlp: torch.Tensor
    after_mlp: torch.Tensor | None
    head_gain: torch.Tensor | None
    """[H + K, D] fp32: q's and k's norm, a row a head"""


@dataclass(frozen=True)
class PassOutput:
    """What a pass says of its scored tokens."""

    choice: torch.Tensor
    """[2, S] fp32: which of a token's edges, counted from its first, and its log-probability"""
    log_p: torch.Tensor
    """[S, width] fp32: of each edge, -inf where closed"""
    hidden: torch.Tensor
    """[S, D]: the last layer's state after the final norm"""


class Steps(Protocol):
    """The parts of a layer that are no matrix product of the base model."""

    def shrink(self, x: torch.Tensor, slots: SlotLayer, layer: int) -> torch.Tensor:
        """Returns what `expand` wants of a layer's input; may still be under way."""
        ...

    def expand(self, y: torch.Tensor, low: torch.Tensor, slots: SlotLayer, layer: int) -> None:
        """Applies each token's adapter to `y = xW'` in place."""
        ...

    def rotate_store(self, heads: torch.Tensor, gain: torch.Tensor | None, eps: float, layer: int) -> torch.Tensor:
        """Norms and rotates `[N, H + 2 K, D]`, stores keys and values in the rows, returns the queries `[N, H, D]`."""
        ...

    def attend(self, query: torch.Tensor, layer: int) -> torch.Tensor:
        """Returns `[N, H * D]`."""
        ...

    def gate(self, both: torch.Tensor, activation: str) -> torch.Tensor:
        """Returns `act(gate) * up` `[N, I]` of `[N, 2 I]`."""
        ...

    def gated_product(self, x: torch.Tensor, weight: torch.Tensor, activation: str) -> torch.Tensor:
        """Returns `gate(xW')` of a weight `[2 I, D]`."""
        ...


class CachedNetwork:
    """Runs a network that transformers loaded; built once, before or after peft has wrapped it."""

    def __init__(self, network: Any, anatomy: Anatomy, *, most_positions: int) -> None:
        """Fuses the layers' weights in place; `network` goes on working through transformers."""
        self.anatomy = anatomy
        self.embedding: torch.Tensor = network.get_input_embeddings().weight.data
        self._embedding_scale = float(torch.tensor(anatomy.embedding_scale, dtype=self.embedding.dtype))
        self.head: torch.Tensor = network.get_output_embeddings().weight.data
        self._final_gain = gain_of(network.model.norm, anatomy.norm_offset)
        self._add_norm = _add_norm_for(self.embedding)
        self._layers = _lay_out([_read_layer(layer, anatomy) for layer in network.model.layers])
        self.slots: dict[str, SlotLayer] = {}
        self.angles = _angle_tables(network, anatomy, self.embedding, most_positions)
        """Kind of layer -> [positions, D] of the weights' dtype: cosines, then sines, of half a head each"""

    @property
    def dtype(self) -> torch.dtype:
        """The arithmetic of the frozen weights."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def layer_count(self) -> int:
        """L"""
        return len(self._layers)

    @property
    def bytes_a_place(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        anatomy = self.anatomy
        return 2 * self.layer_count * anatomy.key_value_heads * anatomy.head_dim * self.dtype.itemsize

    @property
    def pass_bytes_a_token(self) -> int:
        """Bytes that a pass holds at once for each of its tokens, about: most of it the MLP's."""
        inner, width = self.layer_size("gate_up")[0], self.embedding.shape[1]
        heads = self.layer_size("qkv")[0]
        return (inner + inner // 2 + 2 * heads + 4 * width) * self.dtype.itemsize

    def make_rows(self, *, narrow: tuple[int, int], wide: tuple[int, int]) -> KeyValueRows:
        """Returns memory for this network's keys and values."""
        return KeyValueRows(
            layers=self.layer_count,
            numbers_a_token=self.anatomy.key_value_heads * self.anatomy.head_dim,
            narrow=narrow,
            wide=wide,
            dtype=self.dtype,
            device=self.device,
        )

    def weight_of(self, name: str, layer: int) -> torch.Tensor:
        """Returns a fused layer's frozen weight, [O, I]."""
        return self._layers[layer].linear[name].weight

    def layer_size(self, name: str) -> tuple[int, int]:
        """Returns outputs and inputs of a fused layer."""
        outputs, inputs = self.weight_of(name, 0).shape
        return outputs, inputs

    def columns_of(self, name: str, target: str) -> slice:
        """Returns which outputs of a fused layer are a target's."""
        start = 0
        for other in LINEAR_LAYERS[name]:
            stop = start + self._outputs_of(other)
            if other == target:
                return slice(start, stop)
            start = stop
        raise KeyError(target)

    def target_size(self, target: str) -> tuple[int, int]:
        """Returns outputs and inputs of a single target."""
        name = next(name for name, targets in LINEAR_LAYERS.items() if target in targets)
        return self._outputs_of(target), self.layer_size(name)[1]

    def make_slot_layer(self, name: str, targets: tuple[str, ...], *, count: int, rank: int, has_gain: bool) -> SlotLayer:
        """Returns empty slots of a fused layer."""
        outputs, inputs = self.layer_size(name)
        layers, weight = self.layer_count, self.embedding
        return SlotLayer(
            targets,
            tuple(self.columns_of(name, target) for target in targets),
            rank,
            weight.new_zeros(layers, count, len(targets) * rank, inputs),
            weight.new_zeros(layers, count, outputs, rank),
            torch.ones(layers, count, outputs, device=weight.device) if has_gain else None,
        )

    @torch.inference_mode()
    def run(
        self, tokens: PassTensors, steps: Steps, rows: KeyValueRows, edges: torch.Tensor, head: torch.Tensor, *, width: int
    ) -> PassOutput:
        """Reads a pass's tokens into the rows and judges the scored ones; `head` [columns, D], `width` as in `choose`."""
        anatomy, add_norm, eps = self.anatomy, self._add_norm, self.anatomy.norm_eps
        hidden = torch.nn.functional.embedding(tokens.ids, self.embedding)
        if self._embedding_scale != 1.0:
            hidden = hidden * self._embedding_scale
        _, x = add_norm(hidden, None, self._layers[0].before_attention, eps)
        for index, layer in enumerate(self._layers):
            heads = self._linear("qkv", x, layer, steps, index)
            query = steps.rotate_store(
                heads.view(-1, anatomy.heads + 2 * anatomy.key_value_heads, anatomy.head_dim), layer.head_gain, eps, index
            )
            delta = self._linear("out", steps.attend(query, index), layer, steps, index)
            if layer.after_attention is not None:
                _, delta = add_norm(delta, None, layer.after_attention, eps)
            hidden, x = add_norm(hidden, delta, layer.before_mlp, eps)
            delta = self._linear("down", self._gate_up(x, layer, steps, index), layer, steps, index)
            if layer.after_mlp is not None:
                _, delta = add_norm(delta, None, layer.after_mlp, eps)
            is_last = index + 1 == len(self._layers)
            if is_last:
                hidden, delta = hidden.index_select(0, tokens.scored), delta.index_select(0, tokens.scored)
            gain = self._final_gain if is_last else self._layers[index + 1].before_attention
            hidden, x = add_norm(hidden, delta, gain, eps)
        logits = self.logits(x, head)
        best, log_p = choose(
            logits,
            edges,
            tokens.first_edge,
            tokens.edge_count,
            tokens.used,
            tokens.may_go_on.bool(),
            tokens.inverse_temperature.float() / 1_000_000,
            tokens.smoothing.float() / 1_000_000,
            width,
        )
        return PassOutput(torch.stack([best.float(), log_p.gather(1, best[:, None]).squeeze(1)]), log_p, x)

    def logits(self, hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        """Returns `[S, columns]` fp32 of final states `[S, D]`."""
        logits = torch.nn.functional.linear(hidden.to(head.dtype), head).float()
        cap = self.anatomy.head_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _linear(self, name: str, x: torch.Tensor, layer: _Layer, steps: Steps, index: int) -> torch.Tensor:
        linear, slots = layer.linear[name], self.slots.get(name)
        if slots is None:
            y = linear(x)
        else:
            low = steps.shrink(x, slots, index)
            y = linear(x)
            steps.expand(y, low, slots, index)
        return y if linear.bias is None else y + linear.bias

    def _gate_up(self, x: torch.Tensor, layer: _Layer, steps: Steps, index: int) -> torch.Tensor:
        linear = layer.linear["gate_up"]
        if linear.bias is None and linear.laid_out is None and "gate_up" not in self.slots:
            return steps.gated_product(x, linear.weight, self.anatomy.activation)
        return steps.gate(self._linear("gate_up", x, layer, steps, index), self.anatomy.activation)

    def _outputs_of(self, target: str) -> int:
        anatomy = self.anatomy
        if target in ("q_proj", "k_proj", "v_proj"):
            return (anatomy.heads if target == "q_proj" else anatomy.key_value_heads) * anatomy.head_dim
        name = next(name for name, targets in LINEAR_LAYERS.items() if target in targets)
        return self.layer_size(name)[0] // len(LINEAR_LAYERS[name])


def _add_norm_for(weight: torch.Tensor) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    if host_norms.serves(weight.device, weight.dtype):
        return host_norms.add_norm
    passes, dtype = passes_for(weight.device), weight.dtype

    def add_norm(
        x: torch.Tensor, delta: torch.Tensor | None, gain: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, normed, _ = passes.add_norm(x, delta, gain, eps, dtype)
        return total, normed

    return add_norm


def _read_layer(layer: Any, anatomy: Anatomy) -> _Layer:
    attention, mlp, offset = layer.self_attn, layer.mlp, anatomy.norm_offset
    linear = {}
    for name, targets in LINEAR_LAYERS.items():
        owner = mlp if name in ("gate_up", "down") else attention
        bases = [getattr(getattr(owner, target), "base_layer", getattr(owner, target)) for target in targets]
        biases = [base.bias for base in bases]
        bias = torch.cat([one.detach() for one in biases]) if biases[0] is not None else None
        linear[name] = _Linear(stack_weights(bases), bias)
    has_four_norms = hasattr(layer, "pre_feedforward_layernorm")
    head_gain = None
    if hasattr(attention, "q_norm"):
        head_gain = torch.cat(
            [
                gain_of(attention.q_norm, offset).expand(anatomy.heads, -1),
                gain_of(attention.k_norm, offset).expand(anatomy.key_value_heads, -1),
            ]
        )
    return _Layer(
        linear,
        gain_of(layer.input_layernorm, offset),
        gain_of(layer.post_attention_layernorm, offset) if has_four_norms else None,
        gain_of(layer.pre_feedforward_layernorm if has_four_norms else layer.post_attention_layernorm, offset),
        gain_of(layer.post_feedforward_layernorm, offset) if has_four_norms else None,
        head_gain,
    )


def _lay_out(layers: Sequence[_Layer]) -> list[_Layer]:
    linears = [linear for layer in layers for linear in layer.linear.values()]
    laid_out = iter(
        [
            replace(linear, laid_out=laid_out)
            for linear, laid_out in zip(linears, lay_out([linear.weight for linear in linears]), strict=True)
        ]
    )
    return [replace(layer, linear={name: next(laid_out) for name in layer.linear}) for layer in layers]


def _angle_tables(network: Any, anatomy: Anatomy, like: torch.Tensor, most_positions: int) -> dict[str, torch.Tensor]:
    rotary, half = rotary_of(network), anatomy.head_dim // 2
    positions = torch.arange(most_positions, device=like.device)[None]
    tables = {}
    for kind in set(anatomy.layer_types):
        cos, sin = rotary(like[:1], positions, kind)
        tables[kind] = torch.cat([cos[0, :, :half], sin[0, :, :half]], dim=1).contiguous()
    return tables
