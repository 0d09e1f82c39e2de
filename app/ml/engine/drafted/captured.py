"""Passes as captured graphs, one for each of a few shapes: a pass is launched at once, whatever it consists of.

A smaller pass runs in the next larger shape with idle tokens. Graphs hold addresses: when the slots, the grammars' edges or
the head's columns move to a larger place, all graphs are taken anew.
"""

import logging
from dataclasses import dataclass

import torch

from app.ml.engine.device import Capture, GraphPool, empty_cache, graphs_run, synchronize, triton_runs
from app.ml.engine.drafted.adapters import AdapterShelf
from app.ml.engine.drafted.network import CachedNetwork, PassOutput, Steps
from app.ml.engine.drafted.passes import HostPass, PassShape, PassTensors, build_pass
from app.ml.engine.drafted.rows import KeyValueRows

_SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_ALL_SCORED_TO = 512
_USED_CODES = 8
_FEW_TOKENS = 512
_LEAST_EDGES = 32


_log = logging.getLogger(__name__)


def captured_sizes(most_tokens: int) -> tuple[int, ...]:
    """Returns the sizes of captured passes, up to the first that holds `most_tokens`."""
    return tuple(size for place, size in enumerate(_SIZES) if place == 0 or _SIZES[place - 1] < most_tokens)


@dataclass
class _Captured:
    numbers: torch.Tensor
    output: PassOutput
    capture: Capture


class CapturedPasses:
    """Runs passes on a device that has graphs and Triton."""

    def __init__(self, network: CachedNetwork, rows: KeyValueRows, shelf: AdapterShelf, *, most_tokens: int) -> None:
        """Captures nothing yet; `most_tokens`: no pass is larger."""
        self._network, self._rows, self._shelf = network, rows, shelf
        self._sizes = captured_sizes(most_tokens)
        self._graphs: dict[PassShape, _Captured] = {}
        self._pool = GraphPool()

    @classmethod
    def find(
        cls, network: CachedNetwork, rows: KeyValueRows, shelf: AdapterShelf, *, most_tokens: int
    ) -> "CapturedPasses | None":
        """Returns captured passes, or None where the device runs passes eagerly."""
        is_able = graphs_run(network.device) and triton_runs(network.device)
        return cls(network, rows, shelf, most_tokens=most_tokens) if is_able else None

    def block_tokens(self, tokens: int) -> int:
        """Returns how many tokens a block of a pass of so many tokens has."""
        return 16 if tokens <= _FEW_TOKENS else 32

    def shape_for(self, exact: PassShape) -> PassShape | None:
        """Returns the smallest captured shape that holds a pass; None: it has to run eagerly."""
        if exact.used > _USED_CODES:
            return None
        for size in self._sizes:
            shape = self._shape(size)
            # Larger shapes may have larger blocks, of which a pass needs no more than of its own.
            is_enough = (
                size >= exact.tokens
                and shape.scored >= exact.scored
                and shape.token_blocks >= exact.token_blocks
                and shape.adapter_blocks >= exact.adapter_blocks
            )
            if is_enough:
                return shape
        return None

    def capture_one(self) -> bool:
        """Captures a shape that no pass had so far, with idle tokens alone; False where there is none left.

        Where the device has no memory for it, passes of that size stay eager, which takes half as much.
        """
        for size in self._sizes:
            shape = self._shape(size)
            if shape not in self._graphs:
                host = build_pass((), (), shape, idle_place=self._rows.idle_place, is_eager=False)
                try:
                    with torch.inference_mode():
                        self._graphs[shape] = self._capture(host)
                except torch.OutOfMemoryError:
                    _log.warning("pass_not_captured", extra={"tokens": size})
                    self._sizes = tuple(one for one in self._sizes if one < size)
                    empty_cache(self._network.device)
                return True
        return False

    def _shape(self, size: int) -> PassShape:
        block = self.block_tokens(size)
        return PassShape(
            tokens=size,
            scored=size if size <= _ALL_SCORED_TO else size * 5 // 8,
            used=_USED_CODES,
            token_blocks=size // block + size // 8,
            adapter_blocks=size // block + size // 8,
            block_tokens=block,
        )

    @torch.inference_mode()
    def run(self, host: HostPass) -> PassOutput:
        """Runs a pass; what it returns is good until the next one, on the device's own time."""
        found = self._graphs.get(host.shape)
        if found is None:
            found = self._graphs[host.shape] = self._capture(host)
        found.numbers.copy_(host.numbers, non_blocking=True)
        found.capture.replay()
        return found.output

    def clear(self) -> None:
        """Drops all graphs."""
        self._graphs.clear()
        self._pool = GraphPool()

    def _capture(self, host: HostPass) -> _Captured:
        numbers = host.numbers.to(self._network.device)
        tokens = host.shape.split(numbers)
        # Once for the kernels to be compiled; a pass may run twice, it writes the same again.
        self._run(tokens)
        synchronize(self._network.device)
        capture = Capture(self._pool)
        with capture:
            output = self._run(tokens)
        return _Captured(numbers, output, capture)

    def _run(self, tokens: PassTensors) -> PassOutput:
        shelf = self._shelf
        return self._network.run(
            tokens, self._steps(tokens), self._rows, shelf.edges.numbers, shelf.columns.weight, width=self._width
        )

    def _steps(self, tokens: PassTensors) -> Steps:
        from app.ml.engine.drafted.kernels import KernelSteps  # noqa: PLC0415  # Triton is imported where it runs

        return KernelSteps(self._network, self._rows, tokens)

    @property
    def _width(self) -> int:
        width = _LEAST_EDGES
        while width < self._shelf.most_edges:
            width *= 2
        return width
