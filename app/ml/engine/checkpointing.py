"""Everything that a run needs to go on as if it had never stopped.

A checkpoint folder holds the adapter as peft saves it, `optimizer.safetensors`, `random.safetensors` and `state.json`,
under a manifest, and `best.safetensors` where the best epoch's adapter will be wanted at the end. Where an average is
published, the adapter is that, and the weights that train on are `training_weights.safetensors`. Nothing is pickled.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from app.durable import publish_folder, seal_folder
from app.ml.engine.device import restore_random_state
from app.ml.engine.lora import restore_adapter, save_adapter

_BEST, _IN_TRAINING = "best.safetensors", "training_weights.safetensors"


@dataclass
class TrainState:
    """Where a run stands after `step` optimiser steps."""

    step: int = 0
    trained_tokens: int = 0
    token_budget: int = 0
    """Most tokens of one micro-batch; 0 before it is planned."""
    seconds: float = 0.0
    """Training time of all attempts so far."""
    losses: list[dict[str, float]] = field(default_factory=list)
    """One entry a step: step, epoch, loss, learning_rate, grad_norm."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """One entry an evaluated epoch: epoch, step, eval_loss, and the fields of `AnswerScores`."""


def save_checkpoint(
    folder: Path,
    network: Any,
    optimiser: torch.optim.Optimizer,
    state: TrainState,
    *,
    random: Mapping[str, torch.Tensor],
    best: Mapping[str, torch.Tensor] | None = None,
    in_training: Mapping[str, torch.Tensor] | None = None,
) -> str:
    """Writes a checkpoint whole or not at all, instead of one that stands there; returns its checksum.

    `random`: every rank's random states, as `Ranks.gather` names them. `best`: see `EpochEvaluation`. `in_training`: see
    `WeightAverage`, whose average the network holds meanwhile.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_adapter(network, aside)
    save_file(_optimiser_tensors(optimiser), aside / "optimizer.safetensors")
    save_file(dict(random), aside / "random.safetensors")
    if best:
        save_file(dict(best), aside / _BEST)
    if in_training:
        save_file(dict(in_training), aside / _IN_TRAINING)
    (aside / "state.json").write_text(json.dumps(asdict(state)))
    checksum = seal_folder(aside, about={"step": state.step})
    if folder.exists():
        # The same step, saved before: it must not win, because the checksum that is told is this one's.
        gone = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        publish_folder(aside, folder)
        shutil.rmtree(gone)
    else:
        publish_folder(aside, folder)
    return checksum


def load_checkpoint(
    folder: Path, network: Any, optimiser: torch.optim.Optimizer, *, device: torch.device, rank: int = 0
) -> TrainState:
    """Puts a verified checkpoint into a freshly built network and optimiser and returns where it stands.

    A rank that the checkpoint does not know goes on with the random state that it has.
    """
    restore_adapter(network, folder)
    _restore_optimiser(optimiser, load_file(folder / "optimizer.safetensors", device=str(device)))
    random = load_file(folder / "random.safetensors")
    own = {name.partition("/")[2]: state for name, state in random.items() if name.startswith(f"{rank}/")}
    if own:
        restore_random_state(device, own)
    return TrainState(**json.loads((folder / "state.json").read_text()))


def load_best(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the best epoch's adapter that a verified checkpoint holds; empty where it holds none."""
    return _load(folder / _BEST)


def load_in_training(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights that train on, where a verified checkpoint's adapter is their average; else empty."""
    return _load(folder / _IN_TRAINING)


def _load(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.is_file() else {}


def _names(optimiser: torch.optim.Optimizer) -> Sequence[tuple[str, torch.nn.Parameter]]:
    return [
        (name, parameter)
        for group in optimiser.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    ]


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in _names(optimiser):
        for key, value in optimiser.state[parameter].items():
            tensors[f"{name}::{key}"] = torch.as_tensor(value).contiguous()
    return tensors


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    parameters = dict(_names(optimiser))
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("::")
        optimiser.state[parameters[name]][key] = tensor
