"""What one pass is asked: the tokens of all its questions, as one array that is copied to the device at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from app.ml.engine.compiled import compiled
from app.ml.engine.device import to_device
from app.ml.engine.drafted.feeding import Feeding
from app.ml.engine.drafted.grammar_arrays import START, STOP, GrammarArrays, Ints, may_go_on
from app.ml.engine.drafted.tree import CODES, DEPTH, MASK_WORDS, NODE, TOKEN
from app.ml.engine.novelty import References

# Fields by their place in `PassTensors`.
_IDS, _POSITIONS, _PLACES, _ROW_STARTS, _LINEAR, _BASE, _WORDS = range(7)
_SCORED, _FIRST_EDGE, _EDGE_COUNT, _MAY_GO_ON, _INVERSE, _SMOOTHING, _USED = range(7, 14)
_TOKEN_BLOCKS, _ADAPTER_BLOCKS = 14, 15


@dataclass(frozen=True)
class PassShape:
    """The sizes that decide every tensor's shape."""

    tokens: int
    """N"""
    scored: int
    """S: tokens at which the model is asked for a choice"""
    used: int
    """M: most complete codes of a scored token"""
    token_blocks: int
    """Blocks of at most `block_tokens` tokens of one question"""
    adapter_blocks: int
    """Blocks of at most `block_tokens` tokens of one adapter"""
    block_tokens: int

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each of `PassTensors`' fields is."""
        n, s = self.tokens, self.scored
        blocks = (3 * self.token_blocks, 3 * self.adapter_blocks)
        return (n, n, n, n, n, n, n * MASK_WORDS, s, s, s, s, s, s, s * self.used, *blocks)

    @property
    def numbers(self) -> int:
        """Returns how many int64 a pass of this shape is."""
        return int(self.starts[-1])

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[17]: where each field's numbers begin, and where the last one's end"""
        return np.cumsum([0, *self.sizes])

    def split(self, numbers: torch.Tensor) -> "PassTensors":
        """Cuts a pass's numbers into its parts, without a copy."""
        parts = list(torch.split(numbers, list(self.sizes)))
        parts[_WORDS] = parts[_WORDS].view(-1, MASK_WORDS)
        parts[_USED] = parts[_USED].view(-1, self.used)
        for blocks in (_TOKEN_BLOCKS, _ADAPTER_BLOCKS):
            parts[blocks] = parts[blocks].view(3, -1)
        return PassTensors(self, *parts)


@dataclass(frozen=True)
class PassTensors:
    """One pass on its device; all int64."""

    shape: PassShape
    ids: torch.Tensor
    """[N]"""
    positions: torch.Tensor
    """[N]"""
    places: torch.Tensor
    """[N]: where keys and values go"""
    starts: torch.Tensor
    """[N]: where the token's row begins"""
    linear: torch.Tensor
    """[N]: how many columns from the row's start it sees"""
    base: torch.Tensor
    """[N]: the column at which the row's tree begins"""
    words: torch.Tensor
    """[N, 3]: bit j: it sees column base + j"""
    scored: torch.Tensor
    """[S]: places of the scored tokens among N"""
    first_edge: torch.Tensor
    """[S]"""
    edge_count: torch.Tensor
    """[S]"""
    may_go_on: torch.Tensor
    """[S]: 0 or 1"""
    inverse_temperature: torch.Tensor
    """[S]: in millionths"""
    smoothing: torch.Tensor
    """[S]: in millionths"""
    used: torch.Tensor
    """[S, M]: ranks, -1 where none"""
    token_blocks: torch.Tensor
    """[3, blocks]: first token, tokens, columns of the row that hold something"""
    adapter_blocks: torch.Tensor
    """[3, blocks]: first token, tokens, slot"""


@dataclass(frozen=True)
class Segment:
    """Tokens `start` to `stop` of a pass, all of one adapter."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True)
class PaddedLayout:
    """How the eager path pads a pass's questions side by side for attention."""

    rows: int
    queries: int
    """Most tokens of a question in this pass"""
    keys: int
    """Most columns of a row that hold something"""
    places: torch.Tensor
    """[N] int64: row * queries + place within the question"""
    starts: torch.Tensor
    """[rows] int64: where each question's row begins"""
    first_start: int
    segments: tuple[Segment, ...]
    width: int
    """Most edges of a scored token"""

    def on(self, device: torch.device) -> "PaddedLayout":
        """Copies it to a device."""
        return replace(self, places=self.places.to(device), starts=self.starts.to(device))


@dataclass(frozen=True)
class HostPass:
    """One pass on the host."""

    shape: PassShape
    numbers: torch.Tensor
    """[shape.numbers] int64, pinned where a GPU follows"""
    feedings: Sequence[Feeding]
    layout: PaddedLayout | None
    """Where it is to run eagerly"""

    def on(self, device: torch.device) -> PassTensors:
        """Copies it to a device."""
        return self.shape.split(to_device(self.numbers, device))


@dataclass(frozen=True)
class FedAdapter:
    """What a pass needs to know of a question's adapter."""

    slot: int
    """-1: the base model alone"""
    edge_offset: int
    references: References | None = None
    """What its questions' novelty is told by"""


def exact_shape(feedings: Sequence[Feeding], adapters: Sequence[FedAdapter], block_tokens: int) -> PassShape:
    """Returns the sizes that feedings, those of one adapter side by side, need at least."""
    tokens = sum(feeding.tokens for feeding in feedings)
    used = max((feeding.most_codes for feeding in feedings), default=0)
    by_slot: dict[int, int] = {}
    for feeding, adapter in zip(feedings, adapters, strict=True):
        by_slot[adapter.slot] = by_slot.get(adapter.slot, 0) + feeding.tokens
    return PassShape(
        tokens,
        sum(len(feeding.scored) for feeding in feedings),
        max(1, used),
        sum(-(-feeding.tokens // block_tokens) for feeding in feedings),
        sum(-(-count // block_tokens) for slot, count in by_slot.items() if slot >= 0),
        block_tokens,
    )


def build_pass(
    feedings: Sequence[Feeding],
    adapters: Sequence[FedAdapter],
    shape: PassShape,
    *,
    idle_place: int,
    is_eager: bool,
    into: torch.Tensor | None = None,
) -> HostPass:
    """Lays feedings end to end; in a larger `shape` the rest is filled with tokens that nobody asks about.

    `into`: [shape.numbers] int64 on the host, to be overwritten; None: new memory.
    """
    numbers = torch.empty(shape.numbers, dtype=torch.int64) if into is None else into
    array, starts = numbers.numpy(), shape.starts
    _clear(array, starts, idle_place, sum(map(len, (feeding.scored for feeding in feedings))))
    segments: list[Segment] = []
    at = scored_at = block_at = 0
    for feeding, adapter in zip(feedings, adapters, strict=True):
        question, row, tree = feeding.question, feeding.question.row, feeding.question.tree
        assert row is not None
        begin, count = at, feeding.last - feeding.first
        at += feeding.tokens
        linear = question.linear
        _lay_tokens(
            array,
            starts,
            begin,
            np.array(linear[feeding.first : feeding.last], dtype=np.int64),
            feeding.first,
            len(linear),
            row.start,
            tree.ints,
            tree.bits,
            feeding.begin,
            feeding.end,
        )
        inverse = round(question.plan.inverse_temperature * 1_000_000)
        smoothing = round(question.plan.smoothing * 1_000_000)
        _lay_scored(
            array,
            starts,
            scored_at,
            shape.used,
            feeding.scored,
            begin + count,
            feeding.begin,
            question.plan.arrays,
            tree.ints,
            tree.said,
            adapter.edge_offset,
            inverse,
            smoothing,
        )
        scored_at += len(feeding.scored)
        if not is_eager:
            block_at = _lay_blocks(
                array, starts[_TOKEN_BLOCKS], shape.token_blocks, block_at, begin, at, shape.block_tokens, question.columns_held
            )
        if segments and segments[-1].slot == adapter.slot:
            segments[-1] = Segment(adapter.slot, segments[-1].start, at)
        else:
            segments.append(Segment(adapter.slot, begin, at))
    segments = [segment for segment in segments if segment.slot >= 0]
    if is_eager:
        return HostPass(shape, numbers, feedings, _padded_layout(feedings, tuple(segments), array, starts))
    block_at = 0
    for segment in segments:
        block_at = _lay_blocks(
            array,
            starts[_ADAPTER_BLOCKS],
            shape.adapter_blocks,
            block_at,
            segment.start,
            segment.stop,
            shape.block_tokens,
            segment.slot,
        )
    return HostPass(shape, numbers, feedings, None)


def _padded_layout(
    feedings: Sequence[Feeding], segments: tuple[Segment, ...], array: NDArray[np.int64], starts: NDArray[np.int64]
) -> PaddedLayout:
    queries = max((feeding.tokens for feeding in feedings), default=1)
    places = [np.arange(feeding.tokens) + index * queries for index, feeding in enumerate(feedings)]
    rows = [feeding.question.row.start for feeding in feedings if feeding.question.row is not None]
    edge_counts = array[starts[_EDGE_COUNT] : starts[_EDGE_COUNT + 1]]
    return PaddedLayout(
        len(feedings),
        queries,
        max((feeding.question.columns_held for feeding in feedings), default=1),
        torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *places])),
        torch.tensor(rows, dtype=torch.int64),
        rows[0] if rows else 0,
        segments,
        max(1, int(edge_counts.max(initial=1))),
    )


@compiled
def _clear(numbers: NDArray[np.int64], starts: NDArray[np.int64], idle_place: int, scored: int) -> None:
    """Fills a pass with tokens that nobody asks about."""
    numbers[:] = 0
    numbers[starts[_PLACES] : starts[_ROW_STARTS + 1]] = idle_place
    numbers[starts[_LINEAR] : starts[_LINEAR + 1]] = 1
    numbers[starts[_USED] : starts[_USED + 1]] = -1
    numbers[starts[_INVERSE] + scored : starts[_INVERSE + 1]] = 1_000_000


@compiled
def _lay_tokens(
    numbers: NDArray[np.int64],
    starts: NDArray[np.int64],
    at: int,
    prompt: NDArray[np.int64],
    first: int,
    base: int,
    row_start: int,
    ints: Ints,
    bits: NDArray[np.int64],
    begin: int,
    end: int,
) -> None:
    """Writes a question's tokens: those in order from column `first`, then its tree's entries `begin` to `end`."""
    for index in range(len(prompt) + end - begin):
        place = at + index
        if index < len(prompt):
            column = position = first + index
            numbers[starts[_IDS] + place] = prompt[index]
            numbers[starts[_LINEAR] + place] = column + 1
        else:
            entry = begin + index - len(prompt)
            column, position = base + entry - 1, base - 1 + ints[DEPTH, entry]
            numbers[starts[_IDS] + place] = ints[TOKEN, entry]
            numbers[starts[_LINEAR] + place] = base
            for word in range(MASK_WORDS):
                numbers[starts[_WORDS] + place * MASK_WORDS + word] = bits[entry, word]
        numbers[starts[_POSITIONS] + place] = position
        numbers[starts[_PLACES] + place] = row_start + column
        numbers[starts[_ROW_STARTS] + place] = row_start
        numbers[starts[_BASE] + place] = base


@compiled
def _lay_scored(
    numbers: NDArray[np.int64],
    starts: NDArray[np.int64],
    at: int,
    most_used: int,
    scored: NDArray[np.int64],
    tree_at: int,
    begin: int,
    grammar: GrammarArrays,
    ints: Ints,
    said: Ints,
    edge_offset: int,
    inverse_temperature: int,
    smoothing: int,
) -> None:
    """Writes what is asked at scored entries; the tree's entry `begin` stands at token `tree_at`, the root just before."""
    for index in range(len(scored)):
        entry, place = scored[index], at + index
        node, codes = ints[NODE, entry], ints[CODES, entry]
        first = grammar.nodes[START, node]
        numbers[starts[_SCORED] + place] = tree_at - 1 if entry == 0 else tree_at + entry - begin
        numbers[starts[_FIRST_EDGE] + place] = edge_offset + first
        numbers[starts[_EDGE_COUNT] + place] = grammar.nodes[STOP, node] - first
        numbers[starts[_MAY_GO_ON] + place] = 1 if may_go_on(grammar, codes) else 0
        numbers[starts[_INVERSE] + place] = inverse_temperature
        numbers[starts[_SMOOTHING] + place] = smoothing
        for number in range(codes):
            numbers[starts[_USED] + place * most_used + number] = said[entry, number]


@compiled
def _lay_blocks(
    numbers: NDArray[np.int64], start: int, blocks: int, at: int, begin: int, end: int, block_tokens: int, number: int
) -> int:
    """Cuts tokens into blocks, each with a number that belongs to it; returns how many blocks there are then."""
    for token in range(begin, end, block_tokens):
        numbers[start + at] = token
        numbers[start + blocks + at] = min(block_tokens, end - token)
        numbers[start + 2 * blocks + at] = number
        at += 1
    return at
