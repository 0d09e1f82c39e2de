"""What one pass is asked: the tokens of all its questions, as one array that is copied to the device at once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from app.ml.engine.device import pinned, to_device
from app.ml.engine.drafted.questions import Feeding
from app.ml.engine.novelty import References

MASK_WORDS = 3
_WORD_BYTES = 8 * MASK_WORDS


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

    def _sizes(self) -> tuple[int, ...]:
        n, s = self.tokens, self.scored
        return (n, n, n, n, n, n, n * MASK_WORDS, s, s, s, s, s, s * self.used, 3 * self.token_blocks, 3 * self.adapter_blocks)

    @property
    def numbers(self) -> int:
        """Returns how many int64 a pass of this shape is."""
        return sum(self._sizes())

    def split(self, numbers: torch.Tensor) -> "PassTensors":
        """Cuts a pass's numbers into its parts, without a copy."""
        parts = list(torch.split(numbers, list(self._sizes())))
        parts[6] = parts[6].view(-1, MASK_WORDS)
        parts[12] = parts[12].view(-1, self.used)
        parts[13], parts[14] = parts[13].view(3, -1), parts[14].view(3, -1)
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
    used = max((len(node.state.used) for feeding in feedings for node in feeding.scored), default=0)
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
) -> HostPass:
    """Lays feedings end to end; in a larger `shape` the rest is filled with tokens that nobody asks about."""
    numbers = torch.zeros(shape.numbers, dtype=torch.int64)
    parts = shape.split(numbers)
    view = {field.name: getattr(parts, field.name).numpy() for field in fields(parts) if field.name != "shape"}
    view["places"][:] = view["starts"][:] = idle_place
    view["linear"][:] = 1
    view["used"][:] = -1
    view["inverse_temperature"][:] = 1_000_000
    padded: list[np.ndarray] = []
    queries = max((feeding.tokens for feeding in feedings), default=1)
    keys = 1
    segments: list[Segment] = []
    at = scored_at = block_at = 0
    width = 1
    for index, (feeding, adapter) in enumerate(zip(feedings, adapters, strict=True)):
        question, row = feeding.question, feeding.question.row
        assert row is not None
        begin, count = at, feeding.last - feeding.first
        if count:
            part = slice(at, at + count)
            view["ids"][part] = question.linear[feeding.first : feeding.last]
            columns = np.arange(feeding.first, feeding.last)
            view["positions"][part] = columns
            view["places"][part] = columns + row.start
            view["linear"][part] = columns + 1
            at += count
        base = len(question.linear)
        nodes = feeding.nodes
        if nodes:
            part = slice(at, at + len(nodes))
            columns = np.array([node.column for node in nodes])
            view["ids"][part] = [node.token for node in nodes]
            view["positions"][part] = np.array([node.depth for node in nodes]) + (base - 1)
            view["places"][part] = columns + row.start
            view["linear"][part] = base
            words = b"".join(node.bits.to_bytes(_WORD_BYTES, "little") for node in nodes)
            view["words"][part] = np.frombuffer(words, dtype=np.int64).reshape(-1, MASK_WORDS)
            at += len(nodes)
        view["starts"][begin:at] = row.start
        view["base"][begin:at] = base
        extent = question.columns_held
        keys = max(keys, extent)
        if is_eager:
            padded.append(np.arange(at - begin) + index * queries)
        else:
            for start in range(begin, at, shape.block_tokens):
                view["token_blocks"][:, block_at] = start, min(shape.block_tokens, at - start), extent
                block_at += 1
        place_of = {node: begin + count + place for place, node in enumerate(nodes)}
        grammar = question.plan.grammar
        inverse = round(question.plan.inverse_temperature * 1_000_000)
        for node in feeding.scored:
            state = node.state
            first = grammar.edge_start[state.node]
            edges = grammar.edge_start[state.node + 1] - first
            width = max(width, edges)
            view["scored"][scored_at] = place_of.get(node, begin + count - 1)
            view["first_edge"][scored_at] = adapter.edge_offset + first
            view["edge_count"][scored_at] = edges
            view["may_go_on"][scored_at] = grammar.may_go_on(state)
            view["inverse_temperature"][scored_at] = inverse
            if state.used:
                view["used"][scored_at, : len(state.used)] = state.used
            scored_at += 1
        if segments and segments[-1].slot == adapter.slot:
            segments[-1] = Segment(adapter.slot, segments[-1].start, at)
        else:
            segments.append(Segment(adapter.slot, begin, at))
    layout = None
    if is_eager:
        starts = [feeding.question.row.start for feeding in feedings if feeding.question.row is not None]
        layout = PaddedLayout(
            len(feedings),
            queries,
            keys,
            torch.from_numpy(np.concatenate(padded)) if padded else torch.zeros(0, dtype=torch.int64),
            torch.tensor(starts, dtype=torch.int64),
            starts[0] if starts else 0,
            tuple(segment for segment in segments if segment.slot >= 0),
            width,
        )
    else:
        block_at = 0
        for segment in segments:
            if segment.slot < 0:
                continue
            for start in range(segment.start, segment.stop, shape.block_tokens):
                stop = min(start + shape.block_tokens, segment.stop)
                view["adapter_blocks"][:, block_at] = start, stop - start, segment.slot
                block_at += 1
    return HostPass(shape, pinned(numbers), feedings, layout)
