"""Packs: the rows of a micro-batch laid end to end, without padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from app.ml.engine.batching import IGNORED, TokenRow
from app.ml.engine.device import pinned, to_device

# A captured graph runs one shape. Shapes rounded up to these recur, at the cost of a few idle tokens.
_ROUND_TOKENS, _ROUND_WIDTH, _ROUND_ROWS, _ROUND_TRAINED = 128, 16, 8, 64


@dataclass(frozen=True)
class PackShape:
    """The sizes that decide every tensor's shape in a forward pass."""

    tokens: int
    """N"""
    trained: int
    """S: tokens whose successor is trained"""
    rows: int
    """B"""
    width: int
    """T: tokens of attention's padded rows"""


@dataclass(frozen=True)
class PackedRows:
    """One micro-batch on its device."""

    shape: PackShape
    ids: torch.Tensor
    """[N] int64"""
    positions: torch.Tensor
    """[N] int64, from 0 at each row's first token"""
    places: torch.Tensor
    """[N] int64: where each token stands in the padded `[B * T]` of attention"""
    trained: torch.Tensor
    """[S] int64: the tokens whose successor is trained"""
    labels: torch.Tensor
    """[S] int64: those successors; negative where idle"""


@dataclass(frozen=True)
class HostPack:
    """One micro-batch on the host, ready for one copy."""

    shape: PackShape
    numbers: torch.Tensor
    """[3 N + 2 S] int64, pinned where a GPU follows"""
    label_count: int

    def on(self, device: torch.device) -> PackedRows:
        """Copies it to a device."""
        return view_numbers(self.shape, to_device(self.numbers, device))


def token_count(row: TokenRow) -> int:
    """Returns the tokens that a row puts into a pack: its last token is only predicted, never read."""
    return len(row.prompt) + len(row.answer) - 1


def pack_rows(rows: Sequence[TokenRow], *, is_rounded: bool = False) -> HostPack:
    """Lays rows end to end; `is_rounded` fills up to a shape that recurs, with tokens that train nothing."""
    width = max(map(token_count, rows))
    height = len(rows)
    if is_rounded:
        width = _rounded(width, _ROUND_WIDTH)
        height = _rounded(height, _ROUND_ROWS)
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    trained: list[int] = []
    labels: list[int] = []
    for index, row in enumerate(rows):
        start, length = len(ids), token_count(row)
        ids += row.prompt
        ids += row.answer[:-1]
        positions += range(length)
        places += range(index * width, index * width + length)
        trained += range(start + len(row.prompt) - 1, start + length)
        labels += row.answer
    label_count = len(labels)
    if is_rounded:
        idle = _rounded(len(ids), _ROUND_TOKENS) - len(ids)
        ids += [0] * idle
        positions += [0] * idle
        # Idle tokens stand in rows of their own, behind the real ones.
        places += range(height * width, height * width + idle)
        height += -(-_ROUND_TOKENS // width)
        idle = _rounded(len(labels), _ROUND_TRAINED) - len(labels)
        trained += [0] * idle
        labels += [IGNORED] * idle
    numbers = torch.tensor(ids + positions + places + trained + labels)
    return HostPack(PackShape(len(ids), len(labels), height, width), pinned(numbers), label_count)


def view_numbers(shape: PackShape, numbers: torch.Tensor) -> PackedRows:
    """Cuts a pack's numbers into its parts, without a copy."""
    return PackedRows(shape, *numbers.split([shape.tokens] * 3 + [shape.trained] * 2))


def plan_packs(rows: Sequence[TokenRow], token_budget: int) -> Iterator[list[TokenRow]]:
    """Cuts a step's rows into micro-batches of like length and at most `token_budget` tokens, at least one row each.

    Rows of like length waste least in attention, which alone is padded; what it pads counts a tenth of a real token,
    about its share of the memory.
    """
    pack: list[TokenRow] = []
    tokens = 0
    for row in sorted(rows, key=token_count):
        length = token_count(row)
        padding = (len(pack) + 1) * length - (tokens + length)
        if pack and tokens + length + padding / 10 > token_budget:
            yield pack
            pack, tokens = [], 0
        pack.append(row)
        tokens += length
    if pack:
        yield pack


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step
