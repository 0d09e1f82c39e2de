"""The training loop, in plain sight: through transformers and peft, simple and right.

The fast engine fills the same interface: `train(base, plan, hooks) -> TrainResult`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import torch

from app.ml.engine.batching import TokenRow, collate, micro_batches, step_rows
from app.ml.engine.checkpointing import TrainState, load_checkpoint, save_checkpoint
from app.ml.engine.device import peak_memory_bytes, seed_all
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import attach_adapter, optimiser_groups, trainable_parameter_count, unused_settings
from app.ml.engine.loss import summed_loss
from app.ml.errors import NonFiniteLoss, OutOfDeviceMemory
from app.ml.spec import FinetuneSpec


class Wish(StrEnum):
    """What the outside wants of a run; looked at after each optimiser step."""

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

    def on_checkpoint(self, folder: Path, checksum: str, state: TrainState) -> None:
        """Called when a checkpoint is complete on disk; the hook owns the folder then."""
        ...

    def wish(self) -> Wish:
        """Asked after every step; must not block."""
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


@dataclass(frozen=True)
class TrainResult:
    """How a run ended; `network` holds the adapter."""

    network: Any
    state: TrainState
    stopped: Wish
    """NONE: trained to the end."""
    trainable_parameters: int


def total_steps(spec: FinetuneSpec, row_count: int) -> int:
    """Returns the optimiser steps of a run; the last batch of an epoch may be short."""
    return spec.total_steps(row_count)


def learning_rate_factor(spec: FinetuneSpec, step: int, steps: int) -> float:
    """Returns the factor on the peak learning rate at `step` (from 0): linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(spec.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    match spec.lr_scheduler_type:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return 1 - done
        case "constant":
            return 1.0
    raise ValueError(spec.lr_scheduler_type)


def train(base: LoadedModel, plan: TrainPlan, hooks: TrainHooks) -> TrainResult:
    """Trains a fresh or resumed adapter on a loaded base model.

    Checkpoints after each epoch (or every `save_steps`), and when the wish is to save and stop. On CPU in fp32 a resumed
    run repeats an uninterrupted one bit for bit.

    Raises:
        NonFiniteLoss: the loss or the gradient became NaN or infinite.
        OutOfDeviceMemory: a micro-batch does not fit.
        InvalidSpec: the base model lacks a target module.
    """
    spec, steps = plan.spec, total_steps(plan.spec, len(plan.rows))
    steps_per_epoch = spec.steps_per_epoch(len(plan.rows))
    save_every = spec.save_steps or steps_per_epoch
    seed_all(plan.seed)
    network = attach_adapter(base.network, spec)
    optimiser = torch.optim.AdamW(optimiser_groups(network, spec), lr=spec.learning_rate)
    peak_rates = [group["lr"] for group in optimiser.param_groups]
    state = TrainState()
    if plan.resume_from is not None:
        state = load_checkpoint(plan.resume_from, network, optimiser, device=base.device)
    hooks.on_start(trainable_parameters=trainable_parameter_count(network), total_steps=steps, resumed_from_step=state.step)
    for note in unused_settings(spec):
        hooks.on_note(note)
    network.train()
    first_step, earlier_seconds, started, told = state.step, state.seconds, time.monotonic(), 0.0
    samples = tokens = 0
    stopped = Wish.NONE
    while state.step < steps:
        rows = step_rows(plan.rows, state.step, batch_size=spec.effective_batch_size, seed=plan.seed)
        factor = learning_rate_factor(spec, state.step, steps)
        for group, rate in zip(optimiser.param_groups, peak_rates, strict=True):
            group["lr"] = rate * factor
        loss, grad_norm, label_count = _step(base, network, optimiser, rows, spec)
        state.step += 1
        state.trained_tokens += label_count
        state.seconds = earlier_seconds + time.monotonic() - started
        samples += len(rows)
        tokens += sum(len(row.prompt) + len(row.answer) for row in rows)
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
                    samples_per_s=samples / elapsed,
                    tokens_per_s=tokens / elapsed,
                    seconds_remaining=elapsed / (state.step - first_step) * (steps - state.step),
                    trained_tokens=state.trained_tokens,
                    peak_memory_bytes=peak_memory_bytes(base.device),
                )
            )
        stopped = hooks.wish()
        if stopped is Wish.STOP:
            break
        if stopped is Wish.SAVE_AND_STOP or (state.step % save_every == 0 and state.step < steps):
            folder = plan.checkpoint_folder / f"checkpoint-{state.step}"
            hooks.on_checkpoint(folder, save_checkpoint(folder, network, optimiser, state, device=base.device), state)
        if stopped is Wish.SAVE_AND_STOP:
            break
    network.eval()
    return TrainResult(network, state, stopped, trainable_parameter_count(network))


def _step(
    base: LoadedModel, network: Any, optimiser: torch.optim.Optimizer, rows: Sequence[TokenRow], spec: FinetuneSpec
) -> tuple[float, float, int]:
    """One optimiser step; returns the mean loss, the gradient's L2 norm before clipping, and the trained tokens."""
    label_count = sum(len(row.answer) for row in rows)
    optimiser.zero_grad(set_to_none=True)
    total = torch.zeros((), device=base.device)
    try:
        for micro_batch in micro_batches(rows, spec.per_device_train_batch_size):
            batch = collate(micro_batch, pad_id=base.tokenizer.pad_id, device=base.device)
            loss = summed_loss(network, batch)
            torch.autograd.backward(loss / label_count)
            total += loss.detach()
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemory(
            f"The device ran out of memory with {spec.per_device_train_batch_size} rows in a micro-batch. Lower "
            "per_device_train_batch_size and raise gradient_accumulation_steps by the same factor.",
            param="per_device_train_batch_size",
        ) from error
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    limit = spec.max_grad_norm if spec.max_grad_norm > 0 else math.inf
    grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    mean_loss = float(total) / label_count
    if not math.isfinite(mean_loss) or not math.isfinite(grad_norm):
        raise NonFiniteLoss(
            "The loss is no longer a finite number. Lower learning_rate, or set precision to fp32.", param="learning_rate"
        )
    optimiser.step()
    return mean_loss, grad_norm, label_count
