"""From which novelty on a question is called out of scope."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

MIN_LIMIT_ROWS = 100
FALSE_ALARM_RATE = 0.02


@dataclass(frozen=True, kw_only=True)
class NoveltyLimit:
    """The novelty that few held-out questions pass."""

    limit: float
    """A question whose novelty is above it is out of scope."""
    false_alarm_rate: float
    """Share of in-scope questions that will be called so, as wanted."""
    rows: int
    """Held-out questions that it was set on."""

    def to_mapping(self) -> dict[str, float]:
        """Returns the JSON form."""
        return asdict(self)


def find_novelty_limit(novelties: Sequence[float], *, false_alarm_rate: float = FALSE_ALARM_RATE) -> NoveltyLimit | None:
    """Sets the limit from the novelties of held-out in-scope questions; None for fewer than 100 of them.

    The split-conformal quantile (Vovk et al., "Algorithmic Learning in a Random World", 2005): of n held-out scores the
    ceil((n + 1)(1 - rate))-th smallest, so that a further in-scope question passes it with a chance of at most the rate.
    """
    count = len(novelties)
    if count < MIN_LIMIT_ROWS:
        return None
    place = min(count, math.ceil((count + 1) * (1 - false_alarm_rate)))
    return NoveltyLimit(limit=sorted(novelties)[place - 1], false_alarm_rate=false_alarm_rate, rows=count)
