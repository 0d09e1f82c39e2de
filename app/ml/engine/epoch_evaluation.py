"""The evaluation at the end of each epoch, and what follows from it: early stopping, and the best epoch's adapter."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from app.ml.best_epoch import epochs_without_improvement, find_best
from app.ml.engine.adapter_copy import copy_adapter, put_adapter_back
from app.ml.engine.checkpointing import TrainState
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.evaluating import CutShort, HeldOut, evaluate
from app.ml.engine.loading import LoadedModel
from app.ml.spec import BestMetric, FinetuneSpec


class EpochEvaluation:
    """Scores a run after each epoch, of many after every so many, and at its last step.

    Does nothing for a run without held-out rows. What it decides follows from `TrainState.evaluations` alone. `best` is the one
    thing that a checkpoint must hold beside.
    """

    def __init__(
        self,
        base: LoadedModel,
        network: Any,
        held_out: HeldOut | None,
        spec: FinetuneSpec,
        *,
        steps: int,
        steps_per_epoch: int,
        steps_between: int,
        choices: ChoiceTable | None = None,
    ) -> None:
        """`steps_between`: from one evaluation to the next. With `choices` the held-out loss is over them, as the training's."""
        self._base, self._network, self._spec, self._choices = base, network, spec, choices
        self._held_out = None if held_out is None else held_out.spread(spec.eval_max_rows)
        self._steps, self._steps_per_epoch, self._steps_between = steps, steps_per_epoch, steps_between
        self.best: dict[str, torch.Tensor] = {}
        """The best epoch's adapter, while `load_best_model_at_end` asks for it."""
        self.seconds = 0.0
        """Spent here in this attempt."""

    def is_due(self, state: TrainState) -> bool:
        """Says whether an epoch to be scored has ended and was not; a run that was paused while scoring begins with it."""
        if self._held_out is None or state.step == 0 or (state.evaluations and state.evaluations[-1]["step"] == state.step):
            return False
        return state.step % self._steps_between == 0 or state.step >= self._steps

    def run(self, state: TrainState, is_cut_short: CutShort) -> bool:
        """Appends the epoch's scores to the state; False, and nothing appended, if cut short."""
        assert self._held_out is not None
        began = time.monotonic()
        scores = evaluate(
            self._base,
            self._network,
            self._held_out,
            batch_rows=self._spec.per_device_train_batch_size,
            choices=self._choices,
            is_cut_short=is_cut_short,
        )
        self.seconds += time.monotonic() - began
        if scores is None:
            return False
        state.evaluations.append({"epoch": state.step / self._steps_per_epoch, "step": state.step, **scores})
        if self._spec.load_best_model_at_end and epochs_without_improvement(state.evaluations, self._metric) == 0:
            self.best = copy_adapter(self._network)
        return True

    def stops_early(self, state: TrainState) -> bool:
        """Says whether the last epochs brought nothing better."""
        patience = self._spec.early_stopping_patience
        return 0 < patience <= epochs_without_improvement(state.evaluations, self._metric)

    def settle(self, state: TrainState) -> Mapping[str, Any] | None:
        """Puts the best epoch's adapter into the network, if asked; returns the scores of the adapter that it holds now."""
        if self.best:
            put_adapter_back(self._network, self.best)
            best = find_best(state.evaluations, self._metric)
            return None if best is None else state.evaluations[best]
        last = state.evaluations[-1] if state.evaluations else None
        return last if last is not None and last["step"] == state.step else None

    @property
    def _metric(self) -> BestMetric:
        return self._spec.metric_for_best_model
