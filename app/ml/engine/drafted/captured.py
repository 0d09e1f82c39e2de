"""Passes as captured graphs, one for each of a few shapes."""

from typing import Any


class CapturedPasses:
    """Placeholder until the kernels are there."""

    @classmethod
    def find(cls, *_: Any) -> "CapturedPasses | None":
        return None

    def clear(self) -> None: ...

    def block_tokens(self, tokens: int) -> int:
        return 16

    def shape_for(self, exact: Any) -> Any:
        return None

    def run(self, host: Any) -> Any: ...
