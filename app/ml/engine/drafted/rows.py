"""Keys and values of the questions under way: one row of token places each, in one tensor a layer.

A row remembers the prompt that it held. The next question of the same adapter begins where the two prompts part, so what
all questions share (the start token, the wrapper) is computed once a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(eq=False)
class Row:
    """Places `start` to `start + width` of every layer's keys and values."""

    start: int
    width: int
    owner: int = -1
    """Serial number of the adapter that computed what it holds."""
    tokens: list[int] = field(default_factory=list)
    """The tokens whose keys and values stand at its first columns."""


class KeyValueRows:
    """The keys and values of all layers, `[places, K * D]` each, and which rows are free."""

    def __init__(
        self,
        *,
        layers: int,
        numbers_a_token: int,
        narrow: tuple[int, int],
        wide: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`narrow` and `wide`: how many rows, and how many tokens each holds."""
        self._free: dict[int, list[Row]] = {}
        start = 0
        for count, width in (narrow, wide):
            rows = [Row(start + index * width, width) for index in range(count)]
            # The last one is taken first: a lone question meets the same row, which knows its prompt's start.
            self._free[width] = rows[::-1]
            start += count * width
        self.idle_place = start
        """A place that no row owns, where the idle tokens of a captured pass write."""
        shape = (layers, start + 1, numbers_a_token)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.positions = torch.zeros(start + 1, dtype=torch.int64, device=device)
        """[places]: the position of the token at each place."""
        self.widest = wide[1]

    def take(self, tokens: Sequence[int], owner: int, *, room: int) -> Row | None:
        """Returns a free row for a prompt with `room` places behind it, its `tokens` cut to what both prompts share.

        None where all rows that are wide enough are under way.
        """
        for width, free in self._free.items():
            if len(tokens) + room > width or not free:
                continue
            place = next((index for index in range(len(free) - 1, -1, -1) if free[index].owner == owner), len(free) - 1)
            row = free.pop(place)
            shared = _shared(row.tokens, tokens) if row.owner == owner else 0
            # The last token is always computed: its state is what the answer begins from.
            row.tokens = row.tokens[: min(shared, len(tokens) - 1)]
            row.owner = owner
            return row
        return None

    def give_back(self, row: Row) -> None:
        """Frees a row; it keeps what it holds."""
        self._free[row.width].append(row)


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))
