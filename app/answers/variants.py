"""Who answers where an alias tries a candidate out: the same asker always gets the same one."""

import hashlib
from typing import Literal

from app.adapters.service import ResolvedCandidate

Variant = Literal["primary", "candidate", "shadow"]
"""`primary`: the alias's own adapter. `candidate`: the tried one, to its share of askers. `shadow`: the tried one, unseen."""
SHADOW_SUFFIX = "-shadow"
"""A shadow's id in the log is its primary's with this behind."""

SHADOW_SUFFIX = "-shadow"
"""A shadow's id in the answer log is its primary's with this behind."""


def is_chosen(candidate: ResolvedCandidate, *, alias: str, key: str) -> bool:
    """Says whether an asker (or a question) belongs to the candidate's percentage; whoever does, does for more per cent, too.

    Another candidate has other askers: nobody is always the one who tries.
    """
    digest = hashlib.blake2b(f"{alias}\0{candidate.adapter_id}\0{key}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * 100 < candidate.percent
