"""Hooks of a training that is measured: when each step ended, and when to stop."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.ml.engine.training import Wish


class StepWatch:
    """Notes the time of the start and of each step's end, and stops once `is_over` says so of the number of steps."""

    def __init__(self, is_over: Callable[[int], bool]) -> None:
        self._is_over = is_over
        self.started = 0.0
        self.ends: list[float] = []
        """On the clock that all processes of a host share, seconds"""
        self.notes: list[str] = []

    def on_start(self, **_facts: int) -> None:
        """Notes the time."""
        self.started = time.monotonic()

    def on_note(self, message: str) -> None:
        """Keeps it."""
        self.notes.append(message)

    def on_progress(self, progress: Any) -> None:
        """Losses and norms are read from the run's state."""

    def on_evaluation(self, state: Any) -> None:
        """Nothing is held out."""

    def on_checkpoint(self, folder: Path, checksum: str, state: Any) -> None:
        """None is asked for."""

    def wish(self) -> Wish:
        """Called once a step, when it has ended."""
        self.ends.append(time.monotonic())
        return Wish.STOP if self._is_over(len(self.ends)) else Wish.NONE
