"""The adapters that answer: one trained here by the product's own engine and cached, or many with random factors."""

import hashlib
import importlib
import importlib.util
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from app.durable import BrokenFolder, seal_folder, sha256_of_file, verify_folder
from app.ml.adapter_card import AdapterCard, read_card, write_card
from app.ml.codes import CodeVocabulary
from app.ml.engine.batching import tokenize_examples
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import ADAPTER_WEIGHTS, attach_adapter, save_adapter
from app.ml.engine.training import Progress, TrainPlan, Wish, train
from app.ml.formats.example import Example
from app.ml.prompting import PromptRenderer, find_wrapper
from app.ml.spec import PRESETS, FinetuneSpec
from bench.answer.questions import read_alpaca
from bench.answer.trace import QUESTION_INDEX, Trace
from bench.train.report import versions

# The demo's own run, and the one that learns 5,000 rows in a minute on a GPU.
SMALL_SPEC = replace(PRESETS["quick"], num_train_epochs=3.0)
LARGE_SPEC = FinetuneSpec(num_train_epochs=8.0, warmup_ratio=0.05)
_SEED = 1
_TOLD_EVERY_S = 20.0


@dataclass(frozen=True)
class PreparedAdapter:
    """A sealed adapter folder."""

    folder: Path
    checksum: str

    @property
    def card(self) -> AdapterCard:
        """What it says of itself."""
        return read_card(self.folder)

    @property
    def question_index(self) -> Path | None:
        """Its index of training questions, if it has one."""
        path = self.folder / QUESTION_INDEX
        return path if path.exists() else None


class _ToldProgress:
    """Hooks that print a line now and then."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def on_start(self, **_facts: int) -> None:
        """The card says it."""

    def on_note(self, message: str) -> None:
        """Nothing that a reader of the table needs."""

    def on_progress(self, progress: Progress) -> None:
        if time.monotonic() - self._told >= _TOLD_EVERY_S:
            self._told = time.monotonic()
            print(f"  step {progress.step} of {progress.total_steps}, loss {progress.loss:.3f}", flush=True)

    def on_evaluation(self, state: Any) -> None:
        """Nothing is held out."""

    def on_checkpoint(self, folder: Path, checksum: str, state: Any) -> None:
        """A run of minutes is done again rather than resumed."""
        shutil.rmtree(folder)

    def wish(self) -> Wish:
        return Wish.NONE


def trained_adapter(base: LoadedModel, training_file: Path, spec: FinetuneSpec, cache: Path) -> PreparedAdapter:
    """Returns the adapter of a spec, a file and a base model: from the cache, or trained now in `base`, which is then used up."""
    file_checksum = sha256_of_file(training_file)
    facts = {
        "file": file_checksum,
        "spec": spec.to_mapping(),
        "model": base.name,
        "precision": base.precision,
        "has_index": _can_index(),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / f"{base.name}-{key}"
    try:
        return PreparedAdapter(folder, verify_folder(folder))
    except BrokenFolder:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"Training an adapter on {training_file.name} ({base.precision}); kept in {cache} for the next time.", flush=True)
    started = time.monotonic()
    examples = read_alpaca(training_file)
    renderer = PromptRenderer(spec.template, find_wrapper([example.question for example in examples]))
    rows, _ = tokenize_examples(examples, renderer, base.tokenizer, cutoff_len=spec.cutoff_len)
    result = train(base, TrainPlan(spec, rows, _SEED, cache / f"{key}-checkpoints"), _ToldProgress())
    losses = [entry["loss"] for entry in result.state.losses if entry["epoch"] > spec.num_train_epochs - 1]
    seconds = round(time.monotonic() - started, 1)
    card = AdapterCard(
        base_model=base.name,
        base_model_checksum=base.checksum,
        dataset_checksum=file_checksum,
        spec=spec,
        precision=base.precision,
        seed=_SEED,
        wrapper=renderer.wrapper,
        vocabulary=CodeVocabulary.from_answers(example.codes for example in examples),
        metrics={"train_loss": round(sum(losses) / len(losses), 4), "train_seconds": seconds, "rows": len(rows)},
        versions=versions(),
    )
    folder.mkdir(parents=True)
    save_adapter(result.network, folder)
    write_card(folder, card)
    _index_questions(folder, card, examples)
    shutil.rmtree(cache / f"{key}-checkpoints", ignore_errors=True)
    print(f"Trained in {seconds:.0f} s, loss {card.metrics['train_loss']}.", flush=True)
    return PreparedAdapter(folder, seal_folder(folder))


def random_adapters(base: LoadedModel, trace: Trace, count: int, folder: Path) -> Iterator[PreparedAdapter]:
    """Makes DoRA adapters of the recipe with random factors, B not zero, for a trace's codes and prompts; uses `base` up."""
    spec = replace(PRESETS["recipe"], template=trace.renderer.template)
    card = AdapterCard(
        base_model=base.name,
        base_model_checksum=base.checksum,
        dataset_checksum="",
        spec=spec,
        precision=base.precision,
        seed=_SEED,
        wrapper=trace.renderer.wrapper,
        vocabulary=trace.vocabulary,
        metrics={},
        versions=versions(),
    )
    first = folder / "random-0"
    first.mkdir(parents=True)
    save_adapter(attach_adapter(base.network, spec), first)
    weights = load_file(first / ADAPTER_WEIGHTS)
    for number in range(count):
        place = folder / f"random-{number}"
        place.mkdir(exist_ok=True)
        if number:
            shutil.copyfile(first / "adapter_config.json", place / "adapter_config.json")
        save_file(_with_random_factors(weights, seed=number), place / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        write_card(place, card)
        if trace.question_index is not None:
            shutil.copyfile(trace.question_index, place / QUESTION_INDEX)
        yield PreparedAdapter(place, seal_folder(place))


def _with_random_factors(weights: dict[str, torch.Tensor], *, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, weight: torch.Tensor) -> torch.Tensor:
        # Magnitudes stay those of the base weight, as they nearly do in training; A is as peft starts it, B is small.
        if "magnitude" in name:
            return weight
        scale = 0.001 if "lora_B" in name else weight.shape[1] ** -0.5
        return torch.randn(weight.shape, generator=generator).mul_(scale)

    return {name: drawn(name, weight) for name, weight in weights.items()}


def _can_index() -> bool:
    return importlib.util.find_spec("app.ml.engine.question_index") is not None


def _index_questions(folder: Path, card: AdapterCard, examples: Sequence[Example]) -> None:
    """Writes the index that the engine drafts from, as a job does."""
    if not _can_index():
        return
    index = importlib.import_module("app.ml.engine.question_index").QuestionIndex
    wrapper: Any = card.wrapper
    questions = [wrapper.strip(example.question) for example in examples]
    index.build(questions, [example.codes for example in examples], vocabulary=card.vocabulary).save(folder)
