"""transformers' Trainer with peft, as the tools built on it use it."""

import gc
import math
import tempfile
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from app.ml.engine.batching import IGNORED, TokenRow
from app.ml.engine.device import empty_cache, forget_peak_memory, peak_memory_bytes
from app.ml.spec import FinetuneSpec
from bench.train.contestant import Measurement
from bench.train.workload import Workload


class _Rows(torch.utils.data.Dataset[TokenRow]):
    def __init__(self, rows: list[TokenRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenRow:
        return self._rows[index]


class _InOrder(Trainer):
    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class _Stopwatch(TrainerCallback):
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times: list[float] = []
        self.losses: list[float] = []
        self.grad_norms: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._note()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._note()

    def on_log(self, _arguments: Any, _state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        if "grad_norm" in logs:
            self.losses.append(float(logs["loss"]))
            self.grad_norms.append(float(logs["grad_norm"]))

    def _note(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def _collate(rows: list[TokenRow]) -> dict[str, torch.Tensor]:
    """Pads on the right to the longest row, as DataCollatorForSeq2Seq does; prompts are not trained."""
    width = max(len(row.prompt) + len(row.answer) for row in rows)
    ids, mask, labels = [], [], []
    for row in rows:
        length = len(row.prompt) + len(row.answer)
        ids.append([*row.prompt, *row.answer, *[0] * (width - length)])
        mask.append([1] * length + [0] * (width - length))
        labels.append([IGNORED] * len(row.prompt) + list(row.answer) + [IGNORED] * (width - length))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def run_hf_trainer(
    workload: Workload,
    spec: FinetuneSpec,
    rows: list[TokenRow],
    steps: int,
    *,
    is_checkpointing: bool = False,
    logs_every: int = 1,
) -> Measurement:
    """Trains `steps` steps; `rows` are taken in their order."""
    started = time.perf_counter()
    base = workload.build(workload.dtype)
    forget_peak_memory(base.device)
    torch.manual_seed(0)
    network = get_peft_model(
        base.network,
        LoraConfig(
            r=spec.lora_rank,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.lora_dropout,
            target_modules=list(spec.lora_target),
            use_rslora=spec.use_rslora,
            use_dora=spec.use_dora,
            task_type="CAUSAL_LM",
        ),
    )
    built = time.perf_counter() - started
    watch = _Stopwatch(workload.device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=spec.per_device_train_batch_size,
            gradient_accumulation_steps=spec.gradient_accumulation_steps,
            max_steps=steps,
            learning_rate=spec.learning_rate,
            lr_scheduler_type=spec.lr_scheduler_type,
            warmup_steps=math.ceil(spec.warmup_ratio * steps),
            max_grad_norm=spec.max_grad_norm,
            weight_decay=spec.weight_decay,
            bf16=workload.dtype == torch.bfloat16,
            use_cpu=workload.device.type == "cpu",
            gradient_checkpointing=is_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if is_checkpointing else None,
            logging_steps=logs_every,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=workload.device.type == "cuda",
            seed=0,
        )
        trainer = _InOrder(model=network, args=arguments, train_dataset=_Rows(rows), data_collator=_collate, callbacks=[watch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    peak = peak_memory_bytes(workload.device)
    seconds = [after - earlier for earlier, after in zip(watch.times, watch.times[1:], strict=False)]
    measured = Measurement(seconds, watch.losses, watch.grad_norms, built, None if peak is None else peak / 2**30)
    del trainer, network, base
    gc.collect()
    empty_cache(workload.device)
    return measured
