"""Forward and backward of one pack as a captured graph, one for each shape that occurs.

A step of a few thousand tokens is some two thousand small launches, which cost a CPU more time than a fast card needs
to run them. A captured graph is launched at once. Graphs hold addresses: inputs, gradients and derived factors stay
where they were at capture; all graphs share one memory pool, since they run one after the other.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch

from app.ml.engine.device import Capture, GraphPool
from app.ml.engine.packed.network import PackedNetwork
from app.ml.engine.packed.packs import HostPack, PackShape, view_numbers

_MOST_GRAPHS = 48


@dataclass
class _Captured:
    numbers: torch.Tensor
    allowed: torch.Tensor | None
    soft: torch.Tensor | None
    loss: torch.Tensor
    capture: Capture


class CapturedPacks:
    """Adds one pack's gradients at a time to the parameters' `grad`, which must exist and stay in place."""

    def __init__(self, network: PackedNetwork, device: torch.device) -> None:
        """Captures nothing yet."""
        self._network = network
        self._device = device
        self._graphs: OrderedDict[PackShape, _Captured] = OrderedDict()
        self._pool = GraphPool()
        self._refresh: Capture | None = None
        self._weight = torch.ones((), device=device)

    def refresh(self) -> None:
        """Takes over the parameters' values."""
        if self._refresh is None:
            self._refresh = Capture(self._pool)
            with self._refresh:
                self._network.refresh()
        self._refresh.replay()

    def run(self, pack: HostPack, weight: float) -> torch.Tensor:
        """Adds the gradients of `weight` times the summed loss; returns the summed loss, valid until the next run."""
        self._weight.fill_(weight)
        found = self._graphs.get(pack.shape)
        if found is None:
            if len(self._graphs) >= _MOST_GRAPHS:
                self._graphs.popitem(last=False)
            found = self._graphs[pack.shape] = self._capture(pack)
        self._graphs.move_to_end(pack.shape)
        found.numbers.copy_(pack.numbers, non_blocking=True)
        for place, given in ((found.allowed, pack.allowed), (found.soft, pack.soft)):
            if place is not None and given is not None:
                place.copy_(given, non_blocking=True)
        found.capture.replay()
        return found.loss

    def clear(self) -> None:
        """Drops all graphs and their memory."""
        self._graphs.clear()
        self._refresh = None
        self._pool = GraphPool()

    def _capture(self, pack: HostPack) -> _Captured:
        numbers = pack.numbers.to(self._device)
        allowed = None if pack.allowed is None else pack.allowed.to(self._device)
        soft = None if pack.soft is None else pack.soft.to(self._device)
        capture = Capture(self._pool)
        with capture:
            loss = self._network.summed_loss(view_numbers(pack.shape, numbers, allowed, soft))
            torch.autograd.backward(loss * self._weight)
        return _Captured(numbers, allowed, soft, loss.detach(), capture)
