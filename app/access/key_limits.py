"""How fast and how wide one key may ask, counted within one API process: no answer waits for another process's count.

The library `limits` in memory costs 3 to 6 microseconds a request where this costs half of one, and over Redis a round trip,
to a broker that may be away while answers go on.
"""

from app.access.errors import KeyRateExceeded, KeyTooBusy

_BURST_S = 10.0


class KeyLimits:
    """The generic cell rate algorithm: one number a key. Ten seconds' worth may come at once, then at an even pace."""

    def __init__(self, *, requests_per_minute: int | None, max_concurrent: int | None) -> None:
        self._requests_per_minute = requests_per_minute
        self._interval_s = 0.0 if requests_per_minute is None else 60.0 / requests_per_minute
        self._tolerance_s = max(_BURST_S - self._interval_s, 0.0)
        self._max_concurrent = max_concurrent
        self._due_at = 0.0
        self._under_way = 0

    def enter(self, now: float) -> None:
        """Counts a request that begins at `now`, seconds of a clock that never goes back; `leave` must follow.

        Raises:
            KeyTooBusy: as many are under way as may be.
            KeyRateExceeded: it comes too early; it says how long to wait.
        """
        if self._max_concurrent is not None and self._under_way >= self._max_concurrent:
            raise KeyTooBusy(f"This key has {self._max_concurrent} requests under way, the most it may. Wait for one to end.")
        if self._interval_s:
            wait_s = self._due_at - now - self._tolerance_s
            if wait_s > 0:
                message = f"This key may make {self._requests_per_minute} requests a minute. Try again in {wait_s:.1f} s."
                raise KeyRateExceeded(message, retry_after_s=wait_s)
            self._due_at = max(self._due_at, now) + self._interval_s
        self._under_way += 1

    def leave(self) -> None:
        """Counts the end of a request."""
        self._under_way -= 1
