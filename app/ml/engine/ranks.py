"""Several processes, one a GPU, that train one adapter together; one process alone is the case of one rank.

Every rank holds the whole model and takes its share of each step's rows. Gradients are summed, and divided by the whole
step's trained tokens, so that any number of ranks takes the same steps. What is decided (wishes, scores) is decided by
rank 0 and told to the others, and only rank 0 writes.
"""

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from app.ml.engine.batching import TokenRow

RENDEZVOUS = "DIANDA_RENDEZVOUS"
"""Environment: a file over which the ranks of one job find each other; torchrun's variables do without."""
_PATIENCE = timedelta(minutes=30)
"""A rank waits so long: another may be saving, or scoring held-out rows."""
Decided = TypeVar("Decided")


class Ranks:
    """Where this process stands among the ranks."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        """`join_ranks` makes it."""
        self.rank, self.size, self._device = rank, size, device

    @property
    def is_first(self) -> bool:
        """Says whether this rank tells and writes."""
        return self.rank == 0

    def share(self, rows: Sequence[TokenRow]) -> Sequence[TokenRow]:
        """Returns this rank's rows of a step: every n-th by length, so that all ranks have about the same work."""
        if self.size == 1:
            return rows
        return sorted(rows, key=lambda row: len(row.prompt) + len(row.answer))[self.rank :: self.size]

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sums each tensor over all ranks, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def decide(self, value: Decided) -> Decided:
        """Returns rank 0's `value` on every rank; it must be JSON's."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self._device)
        length = torch.tensor([len(data)], device=self._device)
        distributed.broadcast(length, src=0)
        if not self.is_first:
            data = torch.empty(int(length), dtype=torch.uint8, device=self._device)
        distributed.broadcast(data, src=0)
        decided: Decided = json.loads(bytes(data.cpu().tolist()))
        return decided

    def gather(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns every rank's CPU tensors of one shape under `<rank>/<name>`."""
        gathered: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            parts = [torch.empty_like(tensor, device=self._device) for _ in range(self.size)]
            if self.size > 1:
                distributed.all_gather(parts, tensor.to(self._device))
            else:
                parts = [tensor]
            gathered |= {f"{rank}/{name}": part.cpu() for rank, part in enumerate(parts)}
        return gathered

    def leave(self) -> None:
        """Ends the connection to the others."""
        if self.size > 1:
            distributed.destroy_process_group()


ALONE = Ranks(0, 1, torch.device("cpu"))


def join_ranks(device: torch.device) -> Ranks:
    """Meets the other ranks that the environment names (torchrun's `RANK`, `WORLD_SIZE`, …); alone if it names none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks(0, 1, device)
    rank = int(os.environ["RANK"])
    options: dict[str, Any] = {}
    if RENDEZVOUS in os.environ:
        options["init_method"] = f"file://{os.environ[RENDEZVOUS]}"
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE, **options)
    return Ranks(rank, size, device)
