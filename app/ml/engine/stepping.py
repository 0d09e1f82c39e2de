"""One optimiser step: its rows cut into packs, their gradients summed, clipped, applied.

A step's result does not depend on how it is cut: losses are sums over trained tokens, divided by the whole step's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from app.ml.engine.batching import TokenRow, collate, trained_count
from app.ml.engine.device import empty_cache, graphs_run
from app.ml.engine.flat_parameters import FlatGroup
from app.ml.engine.loading import LoadedModel
from app.ml.engine.loss import summed_loss
from app.ml.engine.objective import CROSS_ENTROPY, Objective
from app.ml.engine.packed.captured import CapturedPacks
from app.ml.engine.packed.network import PackedNetwork, find_packed_network
from app.ml.engine.packed.packs import HostPack, PackShape, pack_rows, plan_packs, recurring_shape, shape_of, token_count
from app.ml.engine.ranks import ALONE, Ranks
from app.ml.errors import NonFiniteLoss, OutOfDeviceMemory, ZeroGradient
from app.ml.spec import FinetuneSpec


@dataclass(frozen=True)
class StepOutcome:
    """What one step did."""

    loss: float
    """Mean over the step's trained tokens."""
    grad_norm: float
    """L2, before clipping."""
    label_count: int
    samples: int
    tokens: int


class GradientSource(Protocol):
    """Adds gradients of micro-batches to the parameters' `grad`."""

    @property
    def objective(self) -> Objective:
        """Returns what the gradients are of."""
        ...

    def prepare(self, packs: Sequence[Sequence[TokenRow]]) -> Sequence[Any]:
        """Does on the host what can be done before the device is free."""
        ...

    def refresh(self) -> None:
        """Takes over the parameters after an optimiser step or a load."""
        ...

    def add_gradients(self, prepared: Any, weight: float) -> torch.Tensor:
        """Adds the gradients of `weight` times one micro-batch's summed loss; returns that sum as fp32 scalar."""
        ...

    def clear(self) -> None:
        """Gives memory back."""
        ...


class PackedSource:
    """The packed network, its packs captured as graphs where the device runs them."""

    def __init__(self, network: PackedNetwork, device: torch.device, objective: Objective = CROSS_ENTROPY) -> None:
        """Captures at first use; `objective` is the network's."""
        self._network, self._device, self.objective = network, device, objective
        self._captured = CapturedPacks(network, device) if graphs_run(device) else None
        self._shapes: set[PackShape] = set()
        self._is_warm = False

    def prepare(self, packs: Sequence[Sequence[TokenRow]]) -> Sequence[HostPack]:
        """Lays the rows end to end."""
        if self._captured is None:
            return [self._pack(rows) for rows in packs]
        return [self._pack(rows, self._recurring(rows)) for rows in packs]

    def refresh(self) -> None:
        """Derives the adapter's factors."""
        if self._captured is None:
            self._network.refresh()
            return
        self._warm_up()
        self._captured.refresh()

    def add_gradients(self, prepared: HostPack, weight: float) -> torch.Tensor:
        """As the protocol says."""
        if self._captured is not None:
            return self._captured.run(prepared, weight)
        loss = self._network.summed_loss(prepared.on(self._device))
        torch.autograd.backward(loss * weight)
        return loss.detach()

    def clear(self) -> None:
        """Drops the graphs."""
        if self._captured is not None:
            self._captured.clear()

    def _pack(self, rows: Sequence[TokenRow], shape: PackShape | None = None) -> HostPack:
        return pack_rows(rows, shape, self.objective.choices, self.objective.soft)

    def _recurring(self, rows: Sequence[TokenRow]) -> PackShape:
        shape = recurring_shape(shape_of(rows, self.objective.choices), self._shapes)
        self._shapes.add(shape)
        return shape

    def _warm_up(self) -> None:
        # Libraries load kernels at their first call, which no graph may contain; a few tokens call them all.
        if not self._is_warm:
            self._network.refresh()
            choices = self.objective.choices
            rows = [TokenRow((0,) * 8, (0,) * 4 if choices is None else choices.example)] * 8
            few = self._pack(rows, recurring_shape(shape_of(rows, choices), ()))
            with torch.no_grad():
                self._network.summed_loss(few.on(self._device))
            torch.autograd.backward(self._network.summed_loss(few.on(self._device)) * 0.0)
            self._is_warm = True


class PaddedSource:
    """Any causal LM through transformers and peft, in padded batches."""

    def __init__(self, base: LoadedModel, network: Any, objective: Objective = CROSS_ENTROPY) -> None:
        """Keeps the wrapped network."""
        self._base, self._network, self.objective = base, network, objective

    def prepare(self, packs: Sequence[Sequence[TokenRow]]) -> Sequence[Sequence[TokenRow]]:
        """Leaves the rows as they are."""
        return packs

    def refresh(self) -> None:
        """Does nothing: peft derives everything in each forward pass."""

    def add_gradients(self, prepared: Sequence[TokenRow], weight: float) -> torch.Tensor:
        """As the protocol says."""
        objective, base = self.objective, self._base
        batch = collate(
            prepared, pad_id=base.tokenizer.pad_id, device=base.device, choices=objective.choices, soft=objective.soft
        )
        loss = summed_loss(self._network, batch, objective)
        torch.autograd.backward(loss * weight)
        return loss.detach()

    def clear(self) -> None:
        """Keeps nothing to give back."""


class StepRunner:
    """Runs optimiser steps over planned rows."""

    def __init__(
        self,
        source: GradientSource,
        optimiser: torch.optim.Optimizer,
        groups: Sequence[FlatGroup],
        rows_of: Callable[[int], Sequence[TokenRow]],
        *,
        token_budget: int,
        max_grad_norm: float,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        """`rows_of` tells the rows of a step (from 0); a pure function, since it is asked ahead of time."""
        self._source, self._optimiser, self._groups, self._rows_of = source, optimiser, groups, rows_of
        self._limit = max_grad_norm if max_grad_norm > 0 else math.inf
        self._device, self._ranks = device, ranks
        self.token_budget = token_budget
        """Most tokens of one micro-batch; halved when the device runs out of memory."""
        self._ahead: tuple[int, Sequence[TokenRow], Sequence[Any]] | None = None

    def run(self, step: int) -> StepOutcome:
        """Does one step.

        Raises:
            NonFiniteLoss: the loss or the gradient is NaN or infinite; the parameters are spoilt.
            ZeroGradient: the gradient is exactly zero.
            OutOfDeviceMemory: not even one row fits.
        """
        while True:
            try:
                return self._run(step)
            except torch.OutOfMemoryError:
                pass
            # Outside the handler, whose traceback would keep the failed pass's tensors alive.
            self._halve(step)

    def _run(self, step: int) -> StepOutcome:
        rows, prepared = self._prepared(step)
        label_count = sum(trained_count(row, self._source.objective.choices) for row in rows)
        parameters = [group.flat for group in self._groups]
        for group in self._groups:
            assert group.flat.grad is not None
            group.flat.grad.zero_()
        self._source.refresh()
        total = torch.zeros((), device=self._device)
        for pack in prepared:
            total += self._source.add_gradients(pack, 1 / label_count)
        self._ranks.sum([total, *(group.flat.grad for group in self._groups if group.flat.grad is not None)])
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, self._limit)
        self._optimiser.step()
        # The device is busy from here on: the next step's packs cost no time now.
        self._ahead = (step + 1, *self._prepare(step + 1))
        loss, norm = float(total) / label_count, float(grad_norm)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise NonFiniteLoss(
                "The loss is no longer a finite number. Lower learning_rate, or set precision to fp32.", param="learning_rate"
            )
        if norm == 0:
            raise ZeroGradient()
        return StepOutcome(loss, norm, label_count, len(rows), sum(len(row.prompt) + len(row.answer) for row in rows))

    def _prepared(self, step: int) -> tuple[Sequence[TokenRow], Sequence[Any]]:
        if self._ahead is not None and self._ahead[0] == step:
            return self._ahead[1:]
        return self._prepare(step)

    def _prepare(self, step: int) -> tuple[Sequence[TokenRow], Sequence[Any]]:
        rows = self._rows_of(step)
        packs = plan_packs(self._ranks.share(rows), self.token_budget)
        return rows, self._source.prepare(list(packs))

    def _halve(self, step: int) -> None:
        longest = max(token_count(row) for row in self._rows_of(step))
        self._ahead = None
        self._source.clear()
        empty_cache(self._device)
        if self.token_budget <= longest:
            raise OutOfDeviceMemory(
                f"The device has no memory for one row of {longest} tokens. Lower cutoff_len or lora_rank, switch "
                "gradient_checkpointing on, or take a smaller base model.",
                param="cutoff_len",
            )
        self.token_budget = max(longest, self.token_budget // 2)


def make_source(base: LoadedModel, network: Any, spec: FinetuneSpec, objective: Objective = CROSS_ENTROPY) -> GradientSource:
    """Returns the packed source where the network allows it, else the padded one."""
    packed = find_packed_network(
        network, dropout=spec.lora_dropout, is_checkpointing=spec.gradient_checkpointing, objective=objective
    )
    return PaddedSource(base, network, objective) if packed is None else PackedSource(packed, base.device, objective)
