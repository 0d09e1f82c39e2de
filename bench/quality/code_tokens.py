"""Variant `code_tokens`: each code is one new token of the vocabulary, where the product spells codes with the base's tokens.

An answer is code, `|`, code, …, end, and each of these is one new token. Its embedding is both what is read and what the head
compares with; it starts as the mean of the embeddings of the tokens that spell it, and trains in full beside the LoRA factors,
at the spec's learning rate or at one of its own (`code_learning_rate`). The base's own embeddings stay as they are, and the head
has the new tokens alone, so that a loss over the vocabulary is one over them. A code that training never shows has no token and
cannot be answered.

All else is the product's: rows and their order, prompts (neighbours that a prompt shows are answered in code tokens), factors,
objective, optimiser, schedule, grammar, greedy answers, temperature. Networks run padded, through transformers and peft.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean
from typing import Any

import torch
from torch.nn.functional import embedding

from app.ml.adapter_card import AdapterCard
from app.ml.calibration import Calibration, answer_confidence, fit_calibration
from app.ml.codes import SEPARATOR, AnswerGrammar, CodeVocabulary
from app.ml.engine.averaging import WeightAverage
from app.ml.engine.batching import SameRows, step_rows, tokenize_examples
from app.ml.engine.decoding import observe_constrained
from app.ml.engine.device import arithmetic, seed_all
from app.ml.engine.flat_parameters import flatten, optimiser_groups
from app.ml.engine.fresh_rows import fresh_rows
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import attach_adapter, flat_groups
from app.ml.engine.objective import make_objective
from app.ml.engine.observing import Observation
from app.ml.engine.solved_questions import bound_renderer
from app.ml.engine.stepping import PaddedSource, StepRunner
from app.ml.engine.token_budget import plan_token_budget
from app.ml.engine.training import learning_rate_factor
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.formats.example import Example
from app.ml.prompting import PromptRenderer, find_wrapper
from app.ml.spec import FinetuneSpec
from app.ml.tokens import TextTokenizer
from app.ml.training_knowledge import TrainingKnowledge
from worker.child_inputs import in_code_order, learn_companions, vocabulary_of

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class CodeTokenizer:
    """New tokens for codes, `|` and the end, numbered from 0; the base's tokens follow them."""

    base: TextTokenizer
    numbers: Mapping[str, int]
    """Of codes and `|`; the end's is the next one."""

    @classmethod
    def of_codes(cls, base: TextTokenizer, codes: Sequence[str]) -> "CodeTokenizer":
        """Numbers the codes in their order."""
        return cls(base, {text: number for number, text in enumerate((*codes, SEPARATOR))})

    @property
    def size(self) -> int:
        """How many tokens are new."""
        return len(self.numbers) + 1

    @property
    def bos_id(self) -> int | None:
        """The base's."""
        return None if self.base.bos_id is None else self.base.bos_id + self.size

    @property
    def eos_id(self) -> int:
        """The new one."""
        return len(self.numbers)

    @property
    def pad_id(self) -> int:
        """The base's."""
        return self.base.pad_id + self.size

    def encode(self, text: str) -> list[int]:
        """Returns the one token of a text that is a code or `|`, and of any other text the base's tokens."""
        if text in self.numbers:
            return [self.numbers[text]]
        return [token + self.size for token in self.base.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; the end is none."""
        texts = [*self.numbers, ""]
        parts = [(is_new, list(group)) for is_new, group in groupby(ids, key=lambda token: token < self.size)]
        return "".join(
            "".join(texts[token] for token in group) if is_new else self.base.decode([token - self.size for token in group])
            for is_new, group in parts
        )

    def spellings(self) -> list[list[int]]:
        """Returns, new token by new token, the base's tokens that say the same."""
        return [*(self.base.encode(text) for text in self.numbers), [self.base.eos_id]]


class CodeHead(torch.nn.Linear):
    """Compares in fp32 whatever the network computes in: codes that are spelled alike lie close together."""

    def __init__(self, spelled: torch.Tensor) -> None:
        """`spelled`: [C, D] fp32, what each new token starts as."""
        super().__init__(spelled.shape[1], spelled.shape[0], bias=False, device=spelled.device, dtype=torch.float32)
        self.weight.data.copy_(spelled)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns [..., C] fp32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class CodeEmbedding(torch.nn.Module):
    """Reads new tokens with the head's weight and all others with the base's own embedding."""

    def __init__(self, base: torch.nn.Module, head: CodeHead) -> None:
        super().__init__()
        # The base first: transformers takes a network's dtype from its first weight.
        self.base, self.head = base, head
        # Gemma reads its embeddings enlarged.
        self._scale = float(getattr(base, "embed_scale", 1.0))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Returns [B, T, D] in the base's precision."""
        size = self.head.out_features
        of_base = self.base((input_ids - size).clamp(min=0))
        of_codes = embedding(input_ids.clamp(max=size - 1), self.head.weight) * self._scale
        return torch.where((input_ids < size)[..., None], of_codes.to(of_base.dtype), of_base)


@dataclass(frozen=True)
class CodeTokenModel:
    """A trained network, and what answering with it needs."""

    base: LoadedModel
    network: Any
    renderer: PromptRenderer
    grammar: AnswerGrammar
    training: TrainingKnowledge
    train_loss: float
    train_seconds: float
    calibration: Calibration | None = None

    @property
    def temperature(self) -> float:
        """Divides what the head says."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def calibrated(self, held_out: Sequence[Example] | None) -> "CodeTokenModel":
        """Returns the same with the temperature that held-out rows ask for, whose questions were not trained."""
        strip, trained = self.renderer.wrapper.strip, self.training.questions or ()
        fresh = [row for row in held_out or () if strip(row.question) not in trained]
        if not fresh:
            return self
        seen = self.observe(fresh)
        return replace(self, calibration=fit_calibration([one.scored(row.codes) for one, row in zip(seen, fresh, strict=True)]))

    def observe(self, rows: Sequence[Example]) -> list[Observation]:
        """Answers greedily, within the grammar."""
        tokenizer, device = self.base.tokenizer, self.base.device
        prompts = [self.renderer.encode(row.question, tokenizer) for row in rows]
        seen: list[Observation] = []
        for start in range(0, len(prompts), _ROWS_AT_ONCE):
            part = prompts[start : start + _ROWS_AT_ONCE]
            with arithmetic(self.network):
                seen += observe_constrained(self.network, part, self.grammar, pad_id=tokenizer.pad_id, device=device)
        return seen

    def answer(self, rows: Sequence[Example]) -> list[EvaluatedRow]:
        """Answers rows as an evaluation does; a row's time is its share of all rows' time."""
        began = time.monotonic()
        seen = self.observe(rows)
        latency_ms = 1000 * (time.monotonic() - began) / max(1, len(rows))
        return [self._evaluated(row, one, latency_ms) for row, one in zip(rows, seen, strict=True)]

    def _evaluated(self, row: Example, seen: Observation, latency_ms: float) -> EvaluatedRow:
        confidence = round(answer_confidence(seen.scored(row.codes), temperature=self.temperature), 4)
        slices = {**row.slices, "code_count": str(len(set(row.codes)))}
        return EvaluatedRow(
            row=row.row,
            question=row.question,
            expected=row.codes,
            given=seen.codes,
            # The whole answer's stands for each.
            code_confidences=(confidence,) * len(seen.codes),
            confidence=confidence,
            in_vocabulary=True,
            fallback=None,
            latency_ms=round(latency_ms, 3),
            passes=2 * len(seen.codes),
            slices={**slices, **self.training.slices_of(row, self.renderer.wrapper)},
        )


def with_code_tokens(base: LoadedModel, vocabulary: CodeVocabulary) -> LoadedModel:
    """Returns a base model with new tokens in its tokenizer, its embedding and its head; the network is changed in place."""
    tokenizer, network = CodeTokenizer.of_codes(base.tokenizer, vocabulary.codes), base.network
    words = network.get_input_embeddings()
    head = CodeHead(torch.stack([words.weight[tokens].float().mean(0) for tokens in tokenizer.spellings()]))
    network.set_input_embeddings(CodeEmbedding(words, head))
    network.set_output_embeddings(head)
    return replace(base, tokenizer=tokenizer)


def train_code_tokens(
    base: LoadedModel, examples: Sequence[Example], spec: FinetuneSpec, *, seed: int, code_learning_rate: float | None = None
) -> CodeTokenModel:
    """Trains an adapter and the new tokens' embeddings on a loaded base model, which is spoilt for anything else.

    Raises:
        ValueError: the spec has teachers, which would have to have the same tokens.
        NonFiniteLoss: the loss or the gradient became NaN or infinite.
        OutOfDeviceMemory: a micro-batch does not fit.
    """
    if spec.distill_from:
        raise ValueError("Code tokens learn from no teachers: leave teacher_seeds out.")
    examples = in_code_order(examples[: spec.max_samples], spec)
    vocabulary = vocabulary_of(examples, ())
    base = with_code_tokens(base, vocabulary)
    tokenizer = base.tokenizer
    card = _card(base, examples, spec, vocabulary, seed)
    companions, augmentation = learn_companions(examples, card)
    renderer = bound_renderer(card.renderer, companions.index, vocabulary)
    grammar = AnswerGrammar(vocabulary, tokenizer.encode, end_id=tokenizer.eos_id)
    same_rows, _ = tokenize_examples(examples, renderer, tokenizer, cutoff_len=spec.cutoff_len, are_trained=True)
    rows = fresh_rows(examples, renderer, tokenizer, augmentation, seed=seed) or SameRows(same_rows)
    steps, steps_per_epoch = spec.total_steps(len(rows)), spec.steps_per_epoch(len(rows))

    began = time.monotonic()
    seed_all(seed)
    network = attach_adapter(base.network, spec)
    groups = flat_groups(network, spec)
    # peft freezes all that is not its own.
    codes = network.get_output_embeddings().weight.requires_grad_(True)
    groups.append(flatten("codes", code_learning_rate or spec.learning_rate, [("codes", codes)]))
    optimiser = torch.optim.AdamW(optimiser_groups(groups, weight_decay=spec.weight_decay), lr=spec.learning_rate, fused=True)
    average = WeightAverage(groups, spec, steps=steps, steps_per_epoch=steps_per_epoch)
    runner = StepRunner(
        PaddedSource(base, network, make_objective(spec, grammar)),
        optimiser,
        groups,
        lambda step: step_rows(rows, step, batch_size=spec.effective_batch_size, seed=seed),
        token_budget=plan_token_budget(base, spec, same_rows, is_packed=False),
        max_grad_norm=spec.max_grad_norm,
        device=base.device,
    )
    network.train()
    losses = []
    for step in range(steps):
        for entry, group in zip(optimiser.param_groups, groups, strict=True):
            entry["lr"] = group.learning_rate * learning_rate_factor(spec, step, steps)
        losses.append(runner.run(step).loss)
        average.note(step + 1)
    average.settle()
    network.eval()
    return CodeTokenModel(
        base,
        network,
        renderer,
        grammar,
        TrainingKnowledge.of_rows(examples, renderer.wrapper),
        train_loss=round(fmean(losses[-steps_per_epoch:]), 4),
        train_seconds=round(time.monotonic() - began, 2),
    )


def _card(
    base: LoadedModel, examples: Sequence[Example], spec: FinetuneSpec, vocabulary: CodeVocabulary, seed: int
) -> AdapterCard:
    return AdapterCard(
        base_model=base.name,
        base_model_checksum=base.checksum,
        dataset_checksum="",
        # No engine of the product reads these answers, and none would ask a classifier.
        spec=replace(spec, classifier_weight=0.0),
        precision=base.precision,
        seed=seed,
        wrapper=find_wrapper([example.question for example in examples]),
        vocabulary=vocabulary,
        metrics={},
        versions={},
    )
