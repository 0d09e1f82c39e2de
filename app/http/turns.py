"""A bound on what one process does at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Unavailable
from app.http.loop_lag import LoopLag

# So few that a pause of another cause (the machine's, the garbage collector's) refuses nobody.
_WHEN_LATE = 32


class Busy(Unavailable):
    """As many requests of this kind are being served as this process takes at once."""

    code = "too_busy"


class Turns:
    """Counts requests of one event loop; nobody waits for a turn, whoever finds none is refused at once.

    A loop that is late has fewer turns: those that wait for another process cost it nothing, those that it works on itself
    make everyone wait, also who is refused.
    """

    def __init__(self, at_once: int, *, lag: LoopLag | None = None) -> None:
        self._at_once = at_once
        self._when_late = min(at_once, _WHEN_LATE)
        self._lag = lag or LoopLag()
        self._taken = 0

    @property
    def are_taken(self) -> bool:
        """Whether none is free."""
        return self._taken >= (self._when_late if self._lag.is_late else self._at_once)

    @property
    def refusal(self) -> str:
        """What is said to whoever finds none."""
        return f"This process answers at most {self._at_once} requests at once, fewer when it is late. Try again in a moment."

    @contextmanager
    def take(self) -> Iterator[None]:
        """Holds a turn while the block runs.

        Raises:
            Busy: none is free.
        """
        if self.are_taken:
            raise Busy(self.refusal)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
