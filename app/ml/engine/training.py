"""The training loop, in plain sight: steps, learning rate, evaluation, checkpoints, wishes.

What a step computes stands in `stepping`: packed tokens where `packed` knows the network, else padded batches through
transformers and peft.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import torch

from app.ml.codes import AnswerGrammar
from app.ml.engine.averaging import WeightAverage
from app.ml.engine.batching import RowSource, SameRows, TokenRow, step_rows
from app.ml.engine.checkpointing import TrainState, load_best, load_checkpoint, load_in_training, save_checkpoint
from app.ml.engine.device import peak_memory_bytes, random_state, seed_all
from app.ml.engine.epoch_evaluation import EpochEvaluation
from app.ml.engine.evaluating import HeldOut
from app.ml.engine.flat_parameters import optimiser_groups
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import attach_adapter, flat_groups, trainable_parameter_count, unused_settings
from app.ml.engine.objective import make_objective
from app.ml.engine.ranks import ALONE, Ranks
from app.ml.engine.soft_targets import SoftTargets
from app.ml.engine.stepping import PackedSource, StepRunner, make_source
from app.ml.engine.token_budget import needs_checkpointing, plan_token_budget
from app.ml.spec import FinetuneSpec

_RANK_SEEDS_APART = 1_000_003


class Wish(StrEnum):
    """What the outside wants of a run; looked at after each optimiser step and each batch of an evaluation."""

    NONE = "none"
    SAVE_AND_STOP = "save_and_stop"
    """Pause, or the machine goes down: checkpoint, then stop."""
    STOP = "stop"
    """Cancel: stop without a checkpoint."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands; sent at most once a second, and at the first and last step."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    """Mean over the trained tokens of this step."""
    learning_rate: float
    grad_norm: float
    samples_per_s: float
    tokens_per_s: float
    seconds_remaining: float
    """From the steps of this attempt only."""
    trained_tokens: int
    peak_memory_bytes: int | None

    def to_mapping(self) -> dict[str, object]:
        """Returns the JSON form."""
        return asdict(self)


class TrainHooks(Protocol):
    """What a run tells; a hook watches and never changes the mathematics. Called from the training thread."""

    def on_start(self, *, trainable_parameters: int, total_steps: int, resumed_from_step: int) -> None:
        """Called once, before the first step."""
        ...

    def on_note(self, message: str) -> None:
        """Called for what a user should know but which stops nothing."""
        ...

    def on_progress(self, progress: Progress) -> None:
        """Called after a step, at most once a second."""
        ...

    def on_evaluation(self, state: TrainState) -> None:
        """Called when an epoch was scored; its scores are the last of `state.evaluations`."""
        ...

    def on_checkpoint(self, folder: Path, checksum: str, state: TrainState) -> None:
        """Called when a checkpoint is complete on disk; the hook owns the folder then."""
        ...

    def wish(self) -> Wish:
        """Asked after every step and every batch of an evaluation; must not block."""
        ...


@dataclass(frozen=True)
class TrainPlan:
    """What is to be trained."""

    spec: FinetuneSpec
    rows: Sequence[TokenRow]
    seed: int
    checkpoint_folder: Path
    """Parent of this attempt's checkpoints."""
    resume_from: Path | None = None
    """A verified checkpoint of the same plan."""
    held_out: HeldOut | None = None
    """Scored after each epoch."""
    saves_last: bool = False
    """Checkpoint the last step too, because long work follows the training."""
    fresh_rows: RowSource | None = None
    """As many rows as `rows`, made anew for each epoch; None: `rows` themselves are trained."""
    grammar: AnswerGrammar | None = None
    """Of closed answers; needed where the spec's loss is over what it allows."""
    soft: SoftTargets | None = None
    """What the spec's teachers say of the rows, within the same grammar."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended; `network` holds the adapter."""

    network: Any
    state: TrainState
    stopped: Wish
    """NONE: trained to the end, or until nothing got better."""
    trainable_parameters: int
    scores: Mapping[str, Any] | None = None
    """What the held-out rows said of the adapter that `network` holds now."""


def learning_rate_factor(spec: FinetuneSpec, step: int, steps: int) -> float:
    """Returns the factor on the peak learning rate at `step` (from 0): linear warm-up, then the schedule down to its floor."""
    warmup = math.ceil(spec.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    done, floor = (step - warmup) / max(1, steps - warmup), spec.min_lr_rate
    match spec.lr_scheduler_type:
        case "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return floor + (1 - floor) * (1 - done)
        case "constant":
            return 1.0
    raise ValueError(spec.lr_scheduler_type)


def train(base: LoadedModel, plan: TrainPlan, hooks: TrainHooks, ranks: Ranks = ALONE) -> TrainResult:
    """Trains a fresh or resumed adapter on a loaded base model, alone or as one of several ranks.

    Checkpoints after each epoch, of many after every so many (or every `save_steps`), and when the wish is to save and stop.
    On CPU in fp32 a resumed run repeats an uninterrupted one bit for bit, and an evaluated run one that is not.

    Raises:
        NonFiniteLoss: the loss or the gradient became NaN or infinite.
        OutOfDeviceMemory: a micro-batch does not fit.
        ZeroGradient: nothing that trains reaches the loss.
        InvalidSpec: the base model lacks a target module.
        NothingToTrain: the loss is over choices, and there are none.
    """
    spec, steps = plan.spec, plan.spec.total_steps(len(plan.rows))
    row_source = SameRows(plan.rows) if plan.fresh_rows is None else plan.fresh_rows
    steps_per_epoch = spec.steps_per_epoch(len(plan.rows))
    steps_between_scores = spec.steps_between_scores(len(plan.rows))
    save_every = spec.save_steps or steps_between_scores
    objective = make_objective(spec, plan.grammar, plan.soft)
    seed_all(plan.seed)
    network = attach_adapter(base.network, spec)
    groups = flat_groups(network, spec)
    # One launch for all moments and weights; on a CPU one pass over memory instead of a dozen.
    optimiser = torch.optim.AdamW(optimiser_groups(groups, weight_decay=spec.weight_decay), lr=spec.learning_rate, fused=True)
    peak_rates = [group["lr"] for group in optimiser.param_groups]
    state = TrainState()
    if not ranks.is_first:
        # The same adapter to start from, but dropout draws of its own.
        seed_all(plan.seed + ranks.rank * _RANK_SEEDS_APART)
    evaluation = EpochEvaluation(
        base,
        network,
        plan.held_out,
        spec,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        steps_between=steps_between_scores,
        choices=objective.choices,
    )
    average = WeightAverage(groups, spec, steps=steps, steps_per_epoch=steps_per_epoch)
    if plan.resume_from is not None:
        state = load_checkpoint(plan.resume_from, network, optimiser, device=base.device, rank=ranks.rank)
        evaluation.best = load_best(plan.resume_from)
        average.resume(load_in_training(plan.resume_from))
    hooks.on_start(trainable_parameters=trainable_parameter_count(network), total_steps=steps, resumed_from_step=state.step)
    for note in unused_settings(spec):
        hooks.on_note(note)
    network.train()
    step_spec = spec
    if needs_checkpointing(base, spec, plan.rows):
        step_spec = replace(spec, gradient_checkpointing=True)
        hooks.on_note("The longest row finds no room in the device's memory otherwise: gradient_checkpointing is on.")
    source = make_source(base, network, step_spec, objective)
    if not state.token_budget:
        # Once a run: micro-batches cut otherwise after a resume would draw other dropout masks.
        state.token_budget = plan_token_budget(base, step_spec, plan.rows, is_packed=isinstance(source, PackedSource))
    runner = StepRunner(
        source,
        optimiser,
        groups,
        lambda step: step_rows(row_source, step, batch_size=spec.effective_batch_size, seed=plan.seed),
        token_budget=state.token_budget,
        max_grad_norm=spec.max_grad_norm,
        device=base.device,
        ranks=ranks,
    )
    first_step, earlier_seconds, started, told = state.step, state.seconds, time.monotonic(), 0.0
    samples = tokens = 0
    stopped = Wish.NONE
    at_checkpoint = (state.step, len(state.evaluations))
    while True:
        if stopped is Wish.NONE and evaluation.is_due(state):
            with average.in_place():
                stopped = _evaluate(evaluation, state, hooks, ranks)
        is_over = state.step >= steps or evaluation.stops_early(state)
        is_due = plan.saves_last if is_over else state.step % save_every == 0
        is_new = at_checkpoint != (state.step, len(state.evaluations))
        if stopped is Wish.SAVE_AND_STOP or (stopped is Wish.NONE and is_due and is_new):
            at_checkpoint = (state.step, len(state.evaluations))
            folder = plan.checkpoint_folder / f"checkpoint-{state.step}"
            random = ranks.gather(random_state(base.device))
            if ranks.is_first:
                in_training = average.weights_in_training()
                with average.in_place():
                    checksum = save_checkpoint(
                        folder, network, optimiser, state, random=random, best=evaluation.best, in_training=in_training
                    )
                hooks.on_checkpoint(folder, checksum, state)
        if is_over or stopped is not Wish.NONE:
            break
        factor = learning_rate_factor(spec, state.step, steps)
        for group, rate in zip(optimiser.param_groups, peak_rates, strict=True):
            group["lr"] = rate * factor
        outcome = runner.run(state.step)
        loss, grad_norm = outcome.loss, outcome.grad_norm
        if runner.token_budget != state.token_budget:
            state.token_budget = runner.token_budget
            hooks.on_note(f"The device ran out of memory: going on with micro-batches of {runner.token_budget} tokens.")
        state.step += 1
        average.note(state.step)
        state.trained_tokens += outcome.label_count
        state.seconds = earlier_seconds + time.monotonic() - started - evaluation.seconds
        samples += outcome.samples
        tokens += outcome.tokens
        epoch = state.step / steps_per_epoch
        state.losses.append(
            {"step": state.step, "epoch": epoch, "loss": loss, "learning_rate": peak_rates[0] * factor, "grad_norm": grad_norm}
        )
        now = time.monotonic()
        if now - told >= 1.0 or state.step in (first_step + 1, steps):
            told = now
            elapsed = now - started
            hooks.on_progress(
                Progress(
                    step=state.step,
                    total_steps=steps,
                    epoch=epoch,
                    loss=loss,
                    learning_rate=peak_rates[0] * factor,
                    grad_norm=grad_norm,
                    samples_per_s=samples / (elapsed - evaluation.seconds),
                    tokens_per_s=tokens / (elapsed - evaluation.seconds),
                    seconds_remaining=elapsed / (state.step - first_step) * (steps - state.step),
                    trained_tokens=state.trained_tokens,
                    peak_memory_bytes=peak_memory_bytes(base.device),
                )
            )
        stopped = Wish(ranks.decide(hooks.wish()))
    network.eval()
    scores = None
    if stopped is Wish.NONE:
        if state.step < steps:
            hooks.on_note(
                f"Stopped early: {spec.metric_for_best_model} has not improved for {spec.early_stopping_patience} epoch(s)."
            )
        average.settle()
        scores = evaluation.settle(state)
    return TrainResult(network, state, stopped, trainable_parameter_count(network), scores)


def _evaluate(evaluation: EpochEvaluation, state: TrainState, hooks: TrainHooks, ranks: Ranks) -> Wish:
    """Scores the epoch that has ended; returns the wish that cut it short, or NONE.

    Every rank scores, and goes by rank 0's scores: a GPU's rounding must not let one rank stop alone.
    """
    heard = Wish.NONE

    def is_cut_short() -> bool:
        nonlocal heard
        heard = Wish(ranks.decide(hooks.wish()))
        return heard is not Wish.NONE

    if evaluation.run(state, is_cut_short):
        state.evaluations[-1] = ranks.decide(state.evaluations[-1])
        hooks.on_evaluation(state)
    return heard
