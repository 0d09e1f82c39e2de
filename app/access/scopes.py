"""What a key allows."""

from enum import StrEnum


class Scope(StrEnum):
    """Each scope includes those before it."""

    ANSWER = "answer"
    """Ask, say whether an answer was right, see the models' names."""
    TRAIN = "train"
    """Files, jobs, evaluations, experiments, exports, the answer log and its review; reading everything but keys."""
    ADMIN = "admin"
    """What customers get and who gets in: aliases, the code book, deletion of adapters, keys, the audit log."""

    def includes(self, other: "Scope") -> bool:
        """Says whether a key of this scope may do what the other allows."""
        return _RANK[self] >= _RANK[other]


_RANK = {scope: rank for rank, scope in enumerate(Scope)}
