"""Who makes a request."""

from dataclasses import dataclass

from app.access.scopes import Scope


@dataclass(frozen=True)
class Caller:
    """A key's holder, an operator on the host, or anybody where no keys are asked for."""

    name: str
    scope: Scope
    key_id: str | None = None

    def author(self, claimed: str | None) -> str | None:
        """Returns who did it: the key's name; without a key, whoever the client says."""
        return claimed if self.key_id is None else self.name


ANYBODY = Caller("anonymous", Scope.ADMIN)
"""Whoever reaches the API where no keys are asked for."""
