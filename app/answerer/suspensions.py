"""Who wants the card for itself, and until when: each asker has a lease, which ends by itself when the asker dies."""

import time
from collections.abc import Callable


class Suspensions:
    """Leases by holder; written from one thread, read from any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody holds one yet."""
        self._clock = clock
        self._until: dict[str, float] = {}

    @property
    def in_force(self) -> bool:
        """Whether at least one lease has not run out."""
        now = self._clock()
        return any(until > now for until in tuple(self._until.values()))

    def hold(self, holder: str, *, lease_s: float) -> None:
        """Gives or renews a holder's lease."""
        now = self._clock()
        self._until = {name: until for name, until in self._until.items() if until > now} | {holder: now + lease_s}

    def release(self, holder: str) -> None:
        """Ends a holder's lease; there need not be one."""
        self._until = {name: until for name, until in self._until.items() if name != holder}
