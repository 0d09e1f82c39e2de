"""What every contestant reports."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.ml.engine.batching import TokenRow
from app.ml.spec import FinetuneSpec


@dataclass
class Measurement:
    """One run of one contestant."""

    step_seconds: list[float] = field(default_factory=list)
    """Of every optimiser step, in order."""
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    build_seconds: float = 0.0
    peak_gib: float | None = None

    def check(self) -> None:
        """Refuses a run that has not trained: its speed would mean nothing.

        Raises:
            RuntimeError: a gradient norm is zero or not a number.
        """
        if not self.grad_norms or not all(norm > 0 for norm in self.grad_norms):
            raise RuntimeError(f"No gradient: the norms are {self.grad_norms}.")


@dataclass(frozen=True)
class Contestant:
    """A way to train: `run(rows, steps)` with the spec's effective batch."""

    name: str
    run: Callable[[list[TokenRow], int], Measurement]
    spec: FinetuneSpec
