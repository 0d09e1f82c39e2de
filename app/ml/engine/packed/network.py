"""A decoder's forward pass over packed rows, ending in the summed loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from app.ml.engine.objective import CROSS_ENTROPY, Objective, choice_losses
from app.ml.engine.packed.anatomy import Anatomy, find_anatomy, rotary_of
from app.ml.engine.packed.attention import attend
from app.ml.engine.packed.fused import Passes, passes_for
from app.ml.engine.packed.gating import gated
from app.ml.engine.packed.head import choice_logits, summed_cross_entropy
from app.ml.engine.packed.norms import add_norm, gain_of, head_norm, rms_norm
from app.ml.engine.packed.packs import PackedRows
from app.ml.engine.packed.projection import Projection, stack_projections
from app.ml.engine.packed.rotary import rotate_pad, take


@dataclass
class _Layer:
    index: int
    qkv: Projection
    out: Projection
    gate: Projection
    up: Projection
    down: Projection
    before_attention: torch.Tensor
    after_attention: torch.Tensor | None
    """Gain of Gemma 2's and 3's norm of attention's output."""
    before_mlp: torch.Tensor
    after_mlp: torch.Tensor | None
    head_gain: torch.Tensor | None
    """[H + K, D]: q's and k's norm, a row a head."""

    @property
    def projections(self) -> tuple[Projection, ...]:
        return self.qkv, self.out, self.gate, self.up, self.down


class PackedNetwork:
    """Runs a network that peft has wrapped, on its own weights; built once a run, after the adapter is attached."""

    def __init__(
        self,
        network: Any,
        anatomy: Anatomy,
        *,
        dropout: float,
        is_checkpointing: bool = False,
        objective: Objective = CROSS_ENTROPY,
        passes: Passes | None = None,
    ) -> None:
        """Fuses the layers' weights in place; `network` goes on working through transformers and peft.

        `is_checkpointing`: keep only each layer's input for the backward pass, and compute the rest twice. Rows must be
        packed with the objective's choices.
        """
        base = network.get_base_model()
        self._anatomy = anatomy
        self._rotary = rotary_of(base)
        self._embedding = base.get_input_embeddings().weight
        # Rounded to the weights' dtype, as Gemma was trained.
        self._embedding_scale = float(torch.tensor(anatomy.embedding_scale, dtype=self._embedding.dtype))
        self._head = base.get_output_embeddings().weight
        self._final_gain = gain_of(base.model.norm, anatomy.norm_offset)
        self._objective = objective
        if objective.choices is not None:
            tokens = torch.tensor(objective.choices.tokens, device=self._head.device)
            self._choice_head = self._head.detach()[tokens].float()
        self._is_checkpointing = is_checkpointing
        self._dropout = dropout
        self._passes = passes if passes is not None else passes_for(self._embedding.device)
        self._layers = [self._read_layer(layer, index) for index, layer in enumerate(base.model.layers)]
        self._stacks = [
            stack
            for alike in zip(*(layer.projections for layer in self._layers), strict=True)
            for stack in stack_projections(alike)
        ]

    @property
    def dtype(self) -> torch.dtype:
        """Returns the arithmetic of the frozen weights."""
        return self._embedding.dtype

    def refresh(self) -> None:
        """Takes over the adapter's parameters; call it after every optimiser step and every load."""
        for stack in self._stacks:
            stack.refresh()

    def set_training(self, is_training: bool) -> None:
        """Switches the adapters' dropout."""
        for layer in self._layers:
            for projection in layer.projections:
                projection.dropout = self._dropout if is_training else 0.0

    def summed_loss(self, rows: PackedRows) -> torch.Tensor:
        """Returns the sum over trained tokens of the objective's loss, as an fp32 scalar."""
        objective = self._objective
        if rows.allowed is not None:
            return choice_losses(self.choice_logits(rows), rows.labels, rows.allowed, objective, rows.soft)
        final, softcap = self._final_states(rows), self._anatomy.head_softcap
        return summed_cross_entropy(final, self._head, rows.labels, softcap, self._passes, focal_gamma=objective.focal_gamma)

    def choice_logits(self, rows: PackedRows) -> torch.Tensor:
        """Returns `[S, C]` fp32 of the choices of rows, where the objective is over choices."""
        return choice_logits(self._final_states(rows), self._choice_head, self._anatomy.head_softcap)

    def _final_states(self, rows: PackedRows) -> torch.Tensor:
        """Returns `[S, D]`: the trained tokens' states behind the last norm."""
        anatomy = self._anatomy
        hidden = torch.nn.functional.embedding(rows.ids, self._embedding)
        if self._embedding_scale != 1.0:
            hidden = hidden * self._embedding_scale
        angles = self._angles(rows, hidden)
        delta = None
        last = len(self._layers) - 1
        for layer in self._layers:
            run = self._run_layer
            arguments = (layer, hidden, delta, rows, angles[anatomy.layer_types[layer.index]], layer.index == last)
            if self._is_checkpointing:
                hidden, delta = checkpoint(run, *arguments, use_reentrant=False)
            else:
                hidden, delta = run(*arguments)
        assert delta is not None
        _, final = add_norm(hidden, delta, self._final_gain, anatomy.norm_eps, self._head.dtype, self._passes)
        return final

    def _run_layer(
        self,
        layer: _Layer,
        hidden: torch.Tensor,
        delta: torch.Tensor | None,
        rows: PackedRows,
        angles: tuple[torch.Tensor, torch.Tensor],
        is_last: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the residual stream `[N, D]` and what the layer adds to it, which the next norm takes in.

        The last layer goes on with the trained tokens alone: nobody reads the others.
        """
        anatomy, passes, eps, dtype = self._anatomy, self._passes, self._anatomy.norm_eps, self._head.dtype
        if delta is None:
            x = rms_norm(hidden, layer.before_attention, eps, dtype, passes)
        else:
            hidden, x = add_norm(hidden, delta, layer.before_attention, eps, dtype, passes)
        queries, keys = anatomy.heads, anatomy.key_value_heads
        heads = layer.qkv(x).view(-1, queries + 2 * keys, anatomy.head_dim)
        if layer.head_gain is not None:
            heads = head_norm(heads, layer.head_gain, eps)
        query, key, value = rotate_pad(heads, angles, rows, queries, keys, passes)
        places = rows.places
        if is_last:
            places, hidden = places[rows.trained], take(hidden, rows.trained, is_unique=False)
        attended = attend(query, key, value, anatomy, layer.index)
        delta = layer.out(take(attended, places, is_unique=not is_last))
        if layer.after_attention is not None:
            delta = rms_norm(delta, layer.after_attention, eps, delta.dtype, passes)
        hidden, x = add_norm(hidden, delta, layer.before_mlp, eps, dtype, passes)
        delta = layer.down(gated(layer.gate(x), layer.up(x), anatomy.activation, passes))
        if layer.after_mlp is not None:
            delta = rms_norm(delta, layer.after_mlp, eps, delta.dtype, passes)
        return hidden, delta

    def _angles(self, rows: PackedRows, like: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Returns cos and sin, `[N, 1, D / 2]` each, of every kind of layer."""
        half = self._anatomy.head_dim // 2
        angles = {}
        for kind in set(self._anatomy.layer_types):
            cos, sin = self._rotary(like, rows.positions[None], kind)
            angles[kind] = (cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous())
        return angles

    def _read_layer(self, layer: Any, index: int) -> _Layer:
        attention, mlp, offset = layer.self_attn, layer.mlp, self._anatomy.norm_offset
        has_four_norms = hasattr(layer, "pre_feedforward_layernorm")
        head_gain = None
        if hasattr(attention, "q_norm"):
            head_gain = torch.cat(
                [
                    gain_of(attention.q_norm, offset).expand(self._anatomy.heads, -1),
                    gain_of(attention.k_norm, offset).expand(self._anatomy.key_value_heads, -1),
                ]
            )
        return _Layer(
            index=index,
            qkv=Projection([attention.q_proj, attention.k_proj, attention.v_proj], dropout=self._dropout, passes=self._passes),
            out=Projection([attention.o_proj], dropout=self._dropout, passes=self._passes),
            gate=Projection([mlp.gate_proj], dropout=self._dropout, passes=self._passes),
            up=Projection([mlp.up_proj], dropout=self._dropout, passes=self._passes),
            down=Projection([mlp.down_proj], dropout=self._dropout, passes=self._passes),
            before_attention=gain_of(layer.input_layernorm, offset),
            after_attention=gain_of(layer.post_attention_layernorm, offset) if has_four_norms else None,
            before_mlp=gain_of(layer.pre_feedforward_layernorm if has_four_norms else layer.post_attention_layernorm, offset),
            after_mlp=gain_of(layer.post_feedforward_layernorm, offset) if has_four_norms else None,
            head_gain=head_gain,
        )


def find_packed_network(
    network: Any,
    *,
    dropout: float,
    is_checkpointing: bool = False,
    objective: Objective = CROSS_ENTROPY,
    passes: Passes | None = None,
) -> PackedNetwork | None:
    """Returns the packed form of a network that peft has wrapped, or None where it has to run padded."""
    anatomy = find_anatomy(network.get_base_model())
    adapts_embedding = any("lora_embedding" in name for name, _ in network.named_parameters())
    if anatomy is None or adapts_embedding:
        return None
    return PackedNetwork(network, anatomy, dropout=dropout, is_checkpointing=is_checkpointing, objective=objective, passes=passes)
