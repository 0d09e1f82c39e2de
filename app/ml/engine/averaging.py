"""An average of the adapter's weights on their way, which is scored, kept and published instead of the weights themselves.

Averaged are the adapter's own parameters (A, B and DoRA's magnitudes), not their products: what comes out is an adapter
like any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from app.ml.engine.flat_parameters import FlatGroup
from app.ml.spec import FinetuneSpec


class WeightAverage:
    """The average that a spec asks for; does nothing where it asks for none."""

    def __init__(self, groups: Sequence[FlatGroup], spec: FinetuneSpec, *, steps: int, steps_per_epoch: int) -> None:
        """Looks at the weights as they are before the first step."""
        self._groups, self._decay = groups, spec.ema_decay
        ends = [*range(steps_per_epoch, steps, steps_per_epoch), steps]
        self._ends = ends[-spec.average_last_epochs :] if spec.average_last_epochs > 1 else []
        self._averages: list[torch.Tensor] = []
        if self._decay:
            self._averages = self._copies()

    @torch.no_grad()
    def note(self, step: int) -> None:
        """Takes in the weights as they are after `step` steps.

        A moving average begins with a decay of (1 + step) / (10 + step), as TensorFlow's does, so as not to hold on to the
        start.
        """
        if self._decay:
            self._move(min(self._decay, (1 + step) / (10 + step)))
        elif step in self._ends:
            if not self._averages:
                self._averages = self._copies()
            self._move(1 - 1 / (1 + self._ends.index(step)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the network has the average for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def weights_in_training(self) -> dict[str, torch.Tensor]:
        """Returns the weights that a run goes on from, `[n]` fp32 by group; empty while they are the published ones."""
        if not self._averages:
            return {}
        return {group.name: group.flat.detach().clone() for group in self._groups}

    @torch.no_grad()
    def resume(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Takes the network's weights for the average, and what `weights_in_training` returned for the weights."""
        if weights:
            self._averages = self._copies()
            for group in self._groups:
                group.flat.copy_(weights[group.name])

    @torch.no_grad()
    def settle(self) -> None:
        """Puts the average into the network for good."""
        for group, average in zip(self._groups, self._averages, strict=False):
            group.flat.copy_(average)

    def _copies(self) -> list[torch.Tensor]:
        return [group.flat.detach().clone() for group in self._groups]

    def _move(self, decay: float) -> None:
        for group, average in zip(self._groups, self._averages, strict=True):
            average.lerp_(group.flat, 1 - decay)

    @torch.no_grad()
    def _swap(self) -> None:
        for group, average in zip(self._groups, self._averages, strict=False):
            weights = group.flat.clone()
            group.flat.copy_(average)
            average.copy_(weights)
