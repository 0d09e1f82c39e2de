"""One malformed request of the corpus, and how the API took it."""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

JSON = "application/json"
SEED = 7


@dataclass(frozen=True)
class MalformedRequest:
    """`content` is made when it is sent: some bodies have 50 MB."""

    group: str
    name: str
    path: str
    content: Callable[[], bytes]
    content_type: str | None = JSON
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a malformed request got and cost."""

    name: str
    status: int
    seconds: float
    reply_bytes: int
    peak_growth_bytes: int


def dice_of(*names: str) -> random.Random:
    """Returns a generator of its own for each part of the corpus, so that one may change without the others."""
    return random.Random(int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8], "big") + SEED)
