"""A copy of an adapter's weights in the CPU's memory, to go back to."""

from collections.abc import Mapping
from typing import Any

import torch

from app.ml.engine.lora import trainable_parameters


def copy_adapter(network: Any) -> dict[str, torch.Tensor]:
    """Returns the weights that train, by name, as they are now."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in trainable_parameters(network).items()}


@torch.no_grad()
def put_adapter_back(network: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes a copy into the network that it was taken from, bit for bit."""
    for name, parameter in trainable_parameters(network).items():
        parameter.copy_(weights[name])
