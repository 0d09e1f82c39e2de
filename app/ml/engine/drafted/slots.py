"""The adapters' weights side by side: a token finds its adapter's by a slot number, so one pass serves many adapters.

What one linear layer of an adapter does to its product y = xW' is y <- g (y + xA' (sB)'), g being 1 without DoRA. All
slots have the same rank and the same target layers, those of the largest adapter so far; a smaller one is filled with zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file

from app.ml.engine.drafted.network import LINEAR_LAYERS, CachedNetwork, SlotLayer
from app.ml.engine.lora import ADAPTER_WEIGHTS
from app.ml.errors import AdapterMismatch

_RANKS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class SlotShape:
    """What all slots have room for."""

    rank: int
    targets: frozenset[str]
    has_dora: bool

    def union(self, other: "SlotShape") -> "SlotShape":
        """Returns the shape that has room for both."""
        return SlotShape(max(self.rank, other.rank), self.targets | other.targets, self.has_dora or other.has_dora)


@dataclass(frozen=True)
class AdapterWeights:
    """One adapter, read and made ready on the device: for each fused layer of all L layers its three parts."""

    shape: SlotShape
    parts: Mapping[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
    """name -> A [L, m, r, I], s B [L, O, r], g [L, O] fp32 or None"""


class AdapterSlots:
    """Fixed memory for a number of adapters; a slot is written while passes use others, never while one uses it."""

    def __init__(self, network: CachedNetwork, *, memory_bytes: int, most: int) -> None:
        """Takes no memory before the first adapter comes."""
        self._network = network
        self._memory_bytes, self._most = memory_bytes, most
        self.shape: SlotShape | None = None
        self.count = 0

    def bytes_a_slot(self, shape: SlotShape) -> int:
        """Returns how much memory one adapter of a shape takes."""
        numbers = 0
        for name, targets in LINEAR_LAYERS.items():
            adapted = [target for target in targets if target in shape.targets]
            if adapted:
                outputs, inputs = self._network.layer_size(name)
                numbers += shape.rank * (len(adapted) * inputs + outputs) + 2 * outputs
        return numbers * self._network.layer_count * self._network.dtype.itemsize

    def has_room_for(self, shape: SlotShape) -> bool:
        """Says whether an adapter of this shape fits into the slots as they are."""
        return self.shape is not None and self.shape.union(shape) == self.shape

    def grow(self, shape: SlotShape) -> None:
        """Makes the slots larger; what they hold moves along, as far as there are fewer of them now."""
        wanted = shape if self.shape is None else self.shape.union(shape)
        wanted = replace(wanted, rank=next(rank for rank in _RANKS if rank >= wanted.rank))
        count = max(1, min(self._most, self._memory_bytes // max(1, self.bytes_a_slot(wanted))))
        old, self.shape, before = dict(self._network.slots), wanted, self.count
        self.count = count
        for name, targets in LINEAR_LAYERS.items():
            adapted = tuple(target for target in targets if target in wanted.targets)
            if not adapted:
                continue
            layer = self._network.make_slot_layer(name, adapted, count=count, rank=wanted.rank, has_gain=wanted.has_dora)
            if name in old:
                _move(old[name], layer, min(before, count))
            self._network.slots[name] = layer

    @torch.no_grad()
    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Writes an adapter into a slot that no pass uses, on the current stream."""
        for name, layer in self._network.slots.items():
            part = weights.parts.get(name)
            if part is None:
                layer.scaled_b[:, slot].zero_()
                if layer.gain is not None:
                    layer.gain[:, slot].fill_(1)
                continue
            factor_a, scaled_b, gain = part
            rank = factor_a.shape[2]
            own = layer.factor_a[:, slot].view(*factor_a.shape[:1], -1, layer.rank, factor_a.shape[3])
            if rank < layer.rank:
                own.zero_()
                layer.scaled_b[:, slot].zero_()
            targets = [target for target in LINEAR_LAYERS[name] if target in weights.shape.targets]
            for place, target in enumerate(targets):
                own[:, layer.targets.index(target), :rank].copy_(factor_a[:, place])
            layer.scaled_b[:, slot, :, :rank].copy_(scaled_b)
            if layer.gain is not None:
                layer.gain[:, slot].copy_(gain) if gain is not None else layer.gain[:, slot].fill_(1)


def _move(old: SlotLayer, new: SlotLayer, count: int) -> None:
    layers, inputs = old.factor_a.shape[0], old.factor_a.shape[-1]
    before = old.factor_a[:, :count].view(layers, count, len(old.targets), old.rank, inputs)
    after = new.factor_a[:, :count].view(layers, count, len(new.targets), new.rank, inputs)
    for place, target in enumerate(old.targets):
        after[:, :, new.targets.index(target), : old.rank].copy_(before[:, :, place])
    new.scaled_b[:, :count, :, : old.rank].copy_(old.scaled_b[:, :count])
    if new.gain is not None and old.gain is not None:
        new.gain[:, :count].copy_(old.gain[:, :count])


def slot_shape_of(folder: Path) -> SlotShape | None:
    """Returns what an adapter's folder needs of a slot; None where the slots cannot hold it (factors on embeddings)."""
    config = LoraConfig.from_pretrained(str(folder))
    targets = frozenset(config.target_modules or ())
    if not targets <= {target for names in LINEAR_LAYERS.values() for target in names} or config.modules_to_save:
        return None
    if config.rank_pattern or config.alpha_pattern or config.r > _RANKS[-1] or config.bias != "none":
        return None
    return SlotShape(config.r, targets, bool(config.use_dora))


@torch.no_grad()
def read_adapter(folder: Path, network: CachedNetwork, shape: SlotShape) -> AdapterWeights:
    """Reads an adapter's folder and derives what answering needs, on the current stream.

    Raises:
        AdapterMismatch: a weight is missing or has another size than the base model wants.
    """
    config = LoraConfig.from_pretrained(str(folder))
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    parts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = {}
    for name, targets in LINEAR_LAYERS.items():
        adapted = [target for target in targets if target in shape.targets]
        if not adapted:
            continue
        outputs, _ = network.layer_size(name)
        all_a, all_b, all_g = [], [], []
        for layer in range(network.layer_count):
            factor_b = torch.zeros(outputs, config.r, device=network.device)
            gain = torch.ones(outputs, device=network.device) if config.use_dora else None
            layer_a = []
            for target in adapted:
                a, b, magnitude = _of_target(tensors, layer, target, network)
                columns = network.columns_of(name, target)
                layer_a.append(a)
                factor_b[columns] = b * scale
                if gain is not None and magnitude is not None:
                    whole = network.weight_of(name, layer)[columns].float() + factor_b[columns] @ a
                    gain[columns] = magnitude / torch.linalg.vector_norm(whole, dim=1)
            all_a.append(torch.stack(layer_a).to(network.dtype))
            all_b.append(factor_b.to(network.dtype))
            if gain is not None:
                all_g.append(gain)
        parts[name] = (torch.stack(all_a), torch.stack(all_b), torch.stack(all_g) if all_g else None)
    return AdapterWeights(shape, parts)


def random_adapter(network: CachedNetwork, shape: SlotShape, *, seed: int) -> AdapterWeights:
    """Returns an adapter of random numbers that moves every layer's product by a few per cent, for measuring alone."""
    generator = torch.Generator(device=network.device).manual_seed(seed)

    def draw(*size: int, std: float) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=network.device, dtype=torch.float32).mul_(std).to(network.dtype)

    parts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = {}
    for name, targets in LINEAR_LAYERS.items():
        adapted = [target for target in targets if target in shape.targets]
        if adapted:
            outputs, inputs = network.layer_size(name)
            layers = network.layer_count
            gain = 1 + 0.05 * torch.randn(layers, outputs, generator=generator, device=network.device)
            parts[name] = (
                draw(layers, len(adapted), shape.rank, inputs, std=inputs**-0.5),
                draw(layers, outputs, shape.rank, std=0.05 * shape.rank**-0.5),
                gain if shape.has_dora else None,
            )
    return AdapterWeights(shape, parts)


def _of_target(
    tensors: Mapping[str, torch.Tensor], layer: int, target: str, network: CachedNetwork
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    group = "mlp" if target in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    stem = f"base_model.model.model.layers.{layer}.{group}.{target}."
    found = [_first(tensors, [stem + "lora_A.weight"]), _first(tensors, [stem + "lora_B.weight"])]
    magnitude = _first(tensors, [stem + "lora_magnitude_vector", stem + "lora_magnitude_vector.weight"])
    factor_a, factor_b = found
    if factor_a is None or factor_b is None:
        raise AdapterMismatch(f"The adapter has no factors for layer {layer}'s {target}. Train it again on this base model.")
    outputs, inputs = network.target_size(target)
    if factor_a.shape[1] != inputs or factor_b.shape[0] != outputs:
        raise AdapterMismatch(f"The adapter's factors for layer {layer}'s {target} have another size than the base model's.")
    device = network.device
    return (
        factor_a.to(device, torch.float32),
        factor_b.to(device, torch.float32),
        None if magnitude is None else magnitude.to(device, torch.float32),
    )


def _first(tensors: Mapping[str, torch.Tensor], names: Sequence[str]) -> Any:
    return next((tensors[name] for name in names if name in tensors), None)
