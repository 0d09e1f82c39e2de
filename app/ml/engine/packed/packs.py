"""Packs: the rows of a micro-batch laid end to end, without padding."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from app.ml.engine.batching import IGNORED, TokenRow, trained_count
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.device import pinned, to_device
from app.ml.engine.soft_targets import SoftTargets

# A captured graph runs one shape. Shapes rounded up to these recur, at the cost of a few idle tokens.
_ROUND_TOKENS, _ROUND_WIDTH, _ROUND_ROWS, _ROUND_TRAINED = 128, 16, 8, 128
# A shape that was met before is taken again if it costs at most so much more: a new graph costs as much as several steps.
_TAKEN_AGAIN = 1.06


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

    def holds(self, other: "PackShape") -> bool:
        """Says whether rows of the other shape can stand in this one."""
        idle = self.tokens - other.tokens
        # Idle tokens stand in rows of their own, behind the real ones.
        fits = self.rows * self.width >= other.rows * self.width + idle
        return fits and idle >= 0 and self.trained >= other.trained and self.width >= other.width

    @property
    def cost(self) -> float:
        """Returns about how much work the shape is, in tokens: attention's padding and a trained token's head count too."""
        return self.tokens + 0.1 * self.rows * self.width + 0.3 * self.trained


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
    """[S] int64: those successors, or their columns where only some compete; negative where idle"""
    allowed: torch.Tensor | None = None
    """[S, C] bool: what competes with each; None: everything"""
    soft: torch.Tensor | None = None
    """[S, C] fp32: what teachers would choose; None: nobody was asked"""


@dataclass(frozen=True)
class HostPack:
    """One micro-batch on the host, ready for one copy."""

    shape: PackShape
    numbers: torch.Tensor
    """[3 N + 2 S] int64, pinned where a GPU follows"""
    label_count: int
    allowed: torch.Tensor | None = None
    soft: torch.Tensor | None = None
    """Both as in `PackedRows`"""

    def on(self, device: torch.device) -> PackedRows:
        """Copies it to a device."""
        allowed = None if self.allowed is None else to_device(self.allowed, device)
        soft = None if self.soft is None else to_device(self.soft, device)
        return view_numbers(self.shape, to_device(self.numbers, device), allowed, soft)


def token_count(row: TokenRow) -> int:
    """Returns the tokens that a row puts into a pack: its last token is only predicted, never read."""
    return len(row.prompt) + len(row.answer) - 1


def shape_of(rows: Sequence[TokenRow], choices: ChoiceTable | None = None) -> PackShape:
    """Returns the shape of rows laid end to end, without idle tokens; with `choices` nothing else is trained."""
    lengths = list(map(token_count, rows))
    return PackShape(sum(lengths), sum(trained_count(row, choices) for row in rows), len(rows), max(lengths))


def recurring_shape(exact: PackShape, known: Iterable[PackShape]) -> PackShape:
    """Returns a known shape that holds the rows at little more cost, else theirs rounded up."""
    width = _rounded(exact.width, _ROUND_WIDTH)
    rounded = PackShape(
        _rounded(exact.tokens, _ROUND_TOKENS),
        _rounded(exact.trained, _ROUND_TRAINED),
        _rounded(exact.rows, _ROUND_ROWS) - (-_ROUND_TOKENS // width),
        width,
    )
    holding = [shape for shape in known if shape.holds(exact)]
    nearest = min(holding, key=lambda shape: shape.cost, default=rounded)
    return nearest if nearest.cost <= rounded.cost * _TAKEN_AGAIN else rounded


def pack_rows(
    rows: Sequence[TokenRow],
    shape: PackShape | None = None,
    choices: ChoiceTable | None = None,
    soft: SoftTargets | None = None,
) -> HostPack:
    """Lays rows end to end; in a larger `shape` the rest is filled with tokens that train nothing.

    With `choices` nothing else is trained; `soft` is over the same.
    """
    exact = shape_of(rows, choices)
    shape = shape or exact
    width = shape.width
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    trained: list[int] = []
    labels: list[int] = []
    menus: list[int] = []
    for index, row in enumerate(rows):
        start, length = len(ids), token_count(row)
        ids += row.prompt
        ids += row.answer[:-1]
        positions += range(length)
        places += range(index * width, index * width + length)
        first = start + len(row.prompt) - 1
        if choices is None:
            trained += range(first, start + length)
            labels += row.answer
        else:
            chosen = choices.of(row.answer)
            trained += [first + place for place in chosen.places]
            labels += chosen.labels
            menus += chosen.menus
    idle = shape.tokens - exact.tokens
    ids += [0] * idle
    positions += [0] * idle
    places += range(len(rows) * width, len(rows) * width + idle)
    idle = shape.trained - exact.trained
    trained += [0] * idle
    labels += [IGNORED] * idle
    allowed = None
    if choices is not None:
        # Where idle, everything competes: nothing at all would be no distribution.
        allowed = torch.ones(shape.trained, len(choices.tokens), dtype=torch.bool)
        allowed[: exact.trained] = choices.allowed(menus)
        allowed = pinned(allowed)
    wanted = None
    if soft is not None:
        wanted = torch.zeros(shape.trained, len(soft.choices.tokens))
        wanted[: exact.trained] = soft.of((row.example, row.answer) for row in rows)
        wanted = pinned(wanted)
    numbers = pinned(torch.tensor(ids + positions + places + trained + labels))
    return HostPack(shape, numbers, exact.trained, allowed, wanted)


def view_numbers(
    shape: PackShape, numbers: torch.Tensor, allowed: torch.Tensor | None = None, soft: torch.Tensor | None = None
) -> PackedRows:
    """Cuts a pack's numbers into its parts, without a copy."""
    ids, positions, places, trained, labels = numbers.split([shape.tokens] * 3 + [shape.trained] * 2)
    return PackedRows(shape, ids, positions, places, trained, labels, allowed, soft)


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
