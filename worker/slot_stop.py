"""How the slot's process obeys SIGTERM while it works: by saving first.

The worker's main process tells it to stop. Slurm and systemd, though, send SIGTERM to every process of a job at once, and a slot
that ended there would leave its training process's last checkpoint to nobody.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from worker.context import StopFlag


class SlotStop:
    """Set once the whole worker shuts down, or this process alone was told to end."""

    def __init__(self, worker_stopping: StopFlag) -> None:
        self._worker_stopping = worker_stopping
        self._is_told = False

    def is_set(self) -> bool:
        """Says whether the job at hand shall save and stop."""
        return self._is_told or self._worker_stopping.is_set()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Holds back the end while a job is worked on; must be entered in the main thread.

        Raises:
            SystemExit: SIGTERM came meanwhile to this process alone. The pool starts another one in its place.
        """
        # Here and not when the process starts: the pool sets its own handler after that.
        before = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        # A worker that shuts down waits for this task's end and ends its slot itself.
        if self._is_told and not self._worker_stopping.is_set():
            raise SystemExit(0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_told = True
