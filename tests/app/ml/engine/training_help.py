"""Small trainings on the tiny Gemma, for several test modules."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from app.durable import seal_folder
from app.ml.adapter_card import AdapterCard, write_card
from app.ml.codes import AnswerGrammar, CodeVocabulary
from app.ml.engine.answering_in_training import AdapterInTraining
from app.ml.engine.batching import TokenRow, tokenize_examples
from app.ml.engine.checkpointing import TrainState
from app.ml.engine.companions import Companions
from app.ml.engine.evaluating import HeldOut, prepare_held_out
from app.ml.engine.loading import LoadedModel, load_base_model
from app.ml.engine.lora import save_adapter
from app.ml.engine.question_index import QuestionIndex
from app.ml.engine.training import Progress, TrainPlan, TrainResult, Wish, train
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import PromptRenderer, Wrapper
from app.ml.spec import FinetuneSpec
from tests.fixtures.tiny import EOS

CPU = torch.device("cpu")
EXAMPLES = (
    Example(1, "how to stop plan A", ("stop_1", "9.9")),
    Example(2, "price of B", ("11.9",)),
    Example(3, "open the roaming pack please, I travel tomorrow", ("open_12", "info_1", "9.9")),
    Example(4, "what is plan A", ("info_1",)),
    Example(5, "how to open A", ("open_1",)),
)
# Overfits EXAMPLES in about 2 s.
FAST = FinetuneSpec(
    lora_rank=16,
    lora_alpha=32,
    learning_rate=1e-2,
    num_train_epochs=30,
    per_device_train_batch_size=5,
    gradient_accumulation_steps=1,
    warmup_ratio=0.05,
    precision="fp32",
)


@dataclass
class RecordingHooks:
    """Writes down what a run tells, and wishes what the test wants after a step."""

    wish_at: tuple[int, Wish] | None = None
    started: list[dict[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[tuple[Path, str, int]] = field(default_factory=list)
    asked: int = 0

    def on_start(self, *, trainable_parameters: int, total_steps: int, resumed_from_step: int) -> None:
        self.started.append({"parameters": trainable_parameters, "steps": total_steps, "resumed_from": resumed_from_step})

    def on_note(self, message: str) -> None:
        self.notes.append(message)

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def on_evaluation(self, state: TrainState) -> None:
        self.evaluations.append(dict(state.evaluations[-1]))

    def on_checkpoint(self, folder: Path, checksum: str, state: TrainState) -> None:
        self.checkpoints.append((folder, checksum, state.step))

    def wish(self) -> Wish:
        self.asked += 1
        return self.wish_at[1] if self.wish_at is not None and self.asked == self.wish_at[0] else Wish.NONE


def load(folder: BaseModelFolder) -> LoadedModel:
    """Loads a base model anew, for a network that no other test has touched."""
    return load_base_model(folder, device=CPU, dtype=torch.float32)


def token_rows(base: LoadedModel, examples: Sequence[Example] = EXAMPLES, *, spec: FinetuneSpec = FAST) -> list[TokenRow]:
    rows, _ = tokenize_examples(examples, PromptRenderer(spec.template), base.tokenizer, cutoff_len=spec.cutoff_len)
    return rows


def run(
    folder: BaseModelFolder,
    spec: FinetuneSpec,
    checkpoints: Path,
    *,
    hooks: RecordingHooks | None = None,
    examples: Sequence[Example] = EXAMPLES,
    seed: int = 1,
    resume_from: Path | None = None,
    held_out: Sequence[Example] = (),
    saves_last: bool = False,
) -> TrainResult:
    """Trains in a fresh network."""
    base = load(folder)
    plan = TrainPlan(
        spec,
        token_rows(base, examples, spec=spec),
        seed,
        checkpoints,
        resume_from,
        held_out_rows(base, held_out, spec=spec, scratch=checkpoints.parent) if held_out else None,
        saves_last,
    )
    return train(base, plan, hooks or RecordingHooks())


def held_out_rows(
    base: LoadedModel, examples: Sequence[Example], *, spec: FinetuneSpec = FAST, scratch: Path | None = None
) -> HeldOut:
    """Held-out rows; with a folder as `scratch` they are answered by the drafted engine, else padded."""
    grammar, adapter = grammar_for(base, (*EXAMPLES, *examples)), None
    if scratch is not None:
        card = card_of(BaseModelFolder(base.name, Path(), base.checksum), spec, (*EXAMPLES, *examples))
        index = QuestionIndex.build(
            [example.question for example in EXAMPLES], [example.codes for example in EXAMPLES], vocabulary=card.vocabulary
        )
        adapter = AdapterInTraining(Companions(card, index), scratch)
    held_out, _ = prepare_held_out(
        examples, PromptRenderer(spec.template), base, grammar, cutoff_len=spec.cutoff_len, adapter=adapter
    )
    return held_out


def card_of(base: BaseModelFolder, spec: FinetuneSpec, examples: Sequence[Example]) -> AdapterCard:
    return AdapterCard(
        base_model=base.name,
        base_model_checksum=base.checksum,
        dataset_checksum="0" * 64,
        spec=spec,
        precision="fp32",
        seed=1,
        wrapper=Wrapper(),
        vocabulary=CodeVocabulary.from_answers(example.codes for example in examples),
        metrics={},
        versions={},
    )


def publish(
    result: TrainResult, folder: Path, base: BaseModelFolder, spec: FinetuneSpec, examples: Sequence[Example] = EXAMPLES
) -> str:
    """Writes a finished adapter as the worker does; returns its checksum."""
    folder.mkdir(parents=True)
    save_adapter(result.network, folder)
    write_card(folder, card_of(base, spec, examples))
    return seal_folder(folder)


def grammar_for(base: LoadedModel, examples: Sequence[Example] = EXAMPLES) -> AnswerGrammar:
    vocabulary = CodeVocabulary.from_answers(example.codes for example in examples)
    return AnswerGrammar(vocabulary, base.tokenizer.encode, end_id=EOS)


def adapter_tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items() if "lora_" in name}


@dataclass(frozen=True)
class Published:
    """A trained adapter on disk, and the network that training left."""

    folder: Path
    checksum: str
    network: torch.nn.Module
    examples: tuple[Example, ...]
