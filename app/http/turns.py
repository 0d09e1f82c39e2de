"""A bound on what one process does at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Unavailable


class Busy(Unavailable):
    """As many requests of this kind are being served as this process takes at once."""

    code = "too_busy"


class Turns:
    """Counts requests of one event loop; nobody waits for a turn, whoever finds none is refused at once."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Holds a turn while the block runs.

        Raises:
            Busy: none is free.
        """
        if self._taken >= self._at_once:
            raise Busy(f"This process answers {self._at_once} requests at once. Try again in a moment.")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
