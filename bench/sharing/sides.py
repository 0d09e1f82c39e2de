"""The two sides of the measurement, each a process of its own, and the pipe on which it hears and tells."""

import tempfile
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from app.ml.engine.device import pick_device
from app.ml.spec import PRESETS
from bench.sharing.answering import Answered, Asker
from bench.sharing.training import Trained, train_until
from bench.train.workload import Workload

# Steps at the beginning build kernels and graphs.
WARM_STEPS = 5
_PATIENCE_S = 500.0


@dataclass(frozen=True)
class Orders:
    """What is measured; both sides hear it."""

    model: str
    device: str
    store: Path
    tokenizer_of: Path
    training_gib: float | None
    answering_gib: float | None
    checkpointing: bool

    def workload(self) -> Workload:
        """Returns what both sides work on, in the process that calls."""
        device = torch.device("cpu") if self.device == "cpu" else pick_device()
        return Workload(self.model, device, self.store)


class Side:
    """A process that does one side's work and says how far it is."""

    def __init__(self, context: Any, work: Any, *arguments: Any) -> None:
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        self._theirs = theirs

    def __enter__(self) -> "Side":
        self._process.start()
        # Else its end would not be seen here.
        self._theirs.close()
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.join(5 if error[0] is None else 0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def wait_for(self, word: str) -> None:
        """Returns once the other process has said it."""
        heard = self._receive()
        if heard != word:
            raise RuntimeError(f"The process said {heard!r} instead of {word!r}.")

    def sleep(self, seconds: float) -> None:
        """Lets it work; a process that fails meanwhile is noticed."""
        if self._ours.poll(seconds):
            raise RuntimeError(f"The process ended too early: {self._receive()!r}")

    def stop(self) -> Trained:
        """Ends a training, and returns what it noted."""
        self._ours.send("stop")
        trained: Trained = self._receive()
        return trained

    def ask(self) -> Answered:
        """Lets an asker ask once more, and returns what it noted."""
        self._ours.send("ask")
        answered: Answered = self._receive()
        return answered

    def end(self) -> None:
        """Ends an asker."""
        self._ours.send("end")

    def _receive(self) -> Any:
        if not self._ours.poll(_PATIENCE_S):
            raise RuntimeError(f"A process has said nothing for {_PATIENCE_S:.0f} s.")
        return self._ours.recv()


def run_training(pipe: Connection, orders: Orders) -> None:
    """Trains until it is told to stop."""
    spec = replace(
        PRESETS["recipe"], num_train_epochs=10_000.0, save_steps=100_000_000, gradient_checkpointing=orders.checkpointing
    )

    def is_over(steps: int) -> bool:
        if steps == WARM_STEPS:
            pipe.send("warm")
        return steps > WARM_STEPS and pipe.poll()

    pipe.send(train_until(orders.workload(), spec, gib=orders.training_gib, is_over=is_over))


def run_asking(pipe: Connection, orders: Orders, seconds: float, per_s: float | None) -> None:
    """Asks for a phase whenever it is told to."""
    with tempfile.TemporaryDirectory() as scratch:
        asker = Asker(orders.workload(), tokenizer_of=orders.tokenizer_of, gib=orders.answering_gib, scratch=Path(scratch))
        pipe.send("warm")
        while pipe.recv() == "ask":
            pipe.send(asker.ask_for(seconds, per_s=per_s))
