"""Runs one pass on the device and brings back what it said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from app.ml.engine.device import HostBuffers, HostCopies
from app.ml.engine.drafted.adapters import AdapterShelf
from app.ml.engine.drafted.captured import CapturedPasses
from app.ml.engine.drafted.eager import EagerSteps
from app.ml.engine.drafted.feeding import Feeding
from app.ml.engine.drafted.free import FreeQuestion
from app.ml.engine.drafted.grammar_arrays import START, STOP
from app.ml.engine.drafted.network import CachedNetwork, PassOutput
from app.ml.engine.drafted.passes import FedAdapter, HostPass, build_pass, exact_shape
from app.ml.engine.drafted.questions import Question
from app.ml.engine.drafted.rows import KeyValueRows
from app.ml.engine.drafted.tree import NODE
from app.ml.engine.novelty import References

_EAGER_BLOCK = 16


@dataclass(frozen=True)
class Said:
    """What a pass said, on the host."""

    best: NDArray[np.int64]
    """[S]: which edge, counted from a token's first"""
    best_log_p: NDArray[np.float32]
    all_log_p: list[list[float]] | None
    """[S][width], where a question wants all"""
    hidden: torch.Tensor | None
    """[S, D] fp32 on the CPU, where a question's root is wanted"""
    novelty: dict[int, float]
    """Place among S of a question's root -> how unlike the training questions it is"""
    free: dict[int, tuple[int, float]]
    """Place among S -> token and its log-probability, of questions that nothing constrains"""


class InFlight:
    """A pass that the device works on."""

    def __init__(
        self,
        host: HostPass,
        copies: HostCopies,
        buffers: HostBuffers,
        *,
        count: int,
        free_places: Sequence[int],
        root_places: Sequence[int],
    ) -> None:
        """Takes the copies under way; `count` tokens are scored."""
        self.feedings = host.feedings
        self._host, self._copies, self._buffers, self._count = host, copies, buffers, count
        self._free_places, self._root_places = free_places, root_places

    def collect(self) -> Said:
        """Waits for the pass's end."""
        values, count = self._copies.wait(), self._count
        free = {}
        if self._free_places:
            tokens, scores = values["free"].tolist()
            free = {place: (int(token), score) for place, token, score in zip(self._free_places, tokens, scores, strict=True)}
        choice = values["choice"].numpy()[:, :count]
        said = Said(
            choice[0].astype(np.int64),
            choice[1].copy(),
            values["all"][:count].tolist() if "all" in values else None,
            values["hidden"][:count].clone() if "hidden" in values else None,
            dict(zip(self._root_places, values["novelty"].tolist() if "novelty" in values else [], strict=True)),
            free,
        )
        self._copies.give_back()
        self._buffers.give_back(self._host.numbers)
        return said


class PassRunner:
    """Knows where everything is that a pass reads and writes."""

    def __init__(self, network: CachedNetwork, rows: KeyValueRows, shelf: AdapterShelf, *, most_tokens: int) -> None:
        """Captures passes of up to `most_tokens` where the device does so."""
        self.network, self.rows, self.shelf = network, rows, shelf
        self.captured = CapturedPasses.find(network, rows, shelf, most_tokens=most_tokens)
        self._buffers = HostBuffers(network.device)
        if self.captured is not None:
            shelf.on_moved = self.captured.clear

    @torch.inference_mode()
    def launch(self, feedings: Sequence[Feeding], adapters: Sequence[FedAdapter]) -> InFlight:
        """Starts a pass; `adapters`: one a feeding, those of one adapter side by side."""
        block = self.captured.block_tokens(sum(one.tokens for one in feedings)) if self.captured else _EAGER_BLOCK
        exact = exact_shape(feedings, adapters, block)
        shape = self.captured.shape_for(exact) if self.captured is not None else None
        is_eager = shape is None
        planned = shape or exact
        into = self._buffers.take((planned.numbers,), torch.int64)
        host = build_pass(feedings, adapters, planned, idle_place=self.rows.idle_place, is_eager=is_eager, into=into)
        if is_eager:
            output = self.run_eagerly(host)
        else:
            assert self.captured is not None
            output = self.captured.run(host)
        return self._read_back(host, adapters, output, exact.scored)

    @torch.inference_mode()
    def run_eagerly(self, host: HostPass) -> PassOutput:
        """Runs a pass in plain torch."""
        assert host.layout is not None
        tokens = host.on(self.network.device)
        layout = host.layout.on(self.network.device)
        steps = EagerSteps(self.network, self.rows, tokens, layout)
        shelf = self.shelf
        return self.network.run(tokens, steps, self.rows, shelf.edges.numbers, shelf.columns.weight, width=layout.width)

    def _read_back(self, host: HostPass, adapters: Sequence[FedAdapter], output: PassOutput, count: int) -> InFlight:
        questions = [feeding.question for feeding in host.feedings]
        copies = {"choice": output.choice}
        if any(isinstance(one, Question) and one.wants_all_scores for one in questions):
            copies["all"] = output.log_p
        if any(isinstance(one, Question) and one.wants_hidden for one in questions):
            copies["hidden"] = output.hidden.float()
        free_places: list[int] = []
        by_references: dict[References, list[int]] = {}
        place = 0
        for feeding, adapter in zip(host.feedings, adapters, strict=True):
            question = feeding.question
            if feeding.has_root and isinstance(question, FreeQuestion):
                free_places.append(place)
            elif adapter.references is not None and isinstance(question, Question) and feeding.has_root:
                by_references.setdefault(adapter.references, []).append(place)
            place += len(feeding.scored)
        if free_places:
            hidden = output.hidden[torch.tensor(free_places, device=output.hidden.device)]
            scores = torch.log_softmax(self.network.logits(hidden, self.network.head), dim=1).max(dim=1)
            copies["free"] = torch.stack([scores.indices.double(), scores.values.double()])
        if by_references:
            parts = [references.novelty(output.hidden[places]) for references, places in by_references.items()]
            copies["novelty"] = torch.cat(parts)
        roots = [place for places in by_references.values() for place in places]
        started = HostCopies(copies, self._buffers)
        return InFlight(host, started, self._buffers, count=count, free_places=free_places, root_places=roots)


def judge(feedings: Sequence[Feeding], said: Said) -> None:
    """Tells every question of a pass what the model said at its scored tokens."""
    place = 0
    for feeding in feedings:
        question, count = feeding.question, len(feeding.scored)
        question.passes += 1
        if isinstance(question, FreeQuestion):
            if count:
                question.take(*said.free[place])
                place += 1
            continue
        assert isinstance(question, Question)
        if count:
            part, tree, nodes = slice(place, place + count), question.tree, question.plan.arrays.nodes
            first_edges = nodes[START, tree.ints[NODE, feeding.scored]]
            tree.judge(feeding.scored, first_edges + said.best[part], said.best_log_p[part])
            if said.all_log_p is not None and question.wants_all_scores:
                for entry, log_p in zip(feeding.scored.tolist(), said.all_log_p[part], strict=True):
                    start, stop = nodes[START : STOP + 1, tree.ints[NODE, entry]].tolist()
                    tree.all_log_p[entry] = _open_edges(start, stop, log_p)
        if feeding.has_root:
            if said.hidden is not None and question.hidden is None:
                question.hidden = said.hidden[place]
            if question.novelty is None:
                question.novelty = said.novelty.get(place)
        place += count


def _open_edges(start: int, stop: int, log_p: Sequence[float]) -> dict[int, float]:
    return {edge: value for edge, value in zip(range(start, stop), log_p, strict=False) if value > float("-inf")}
