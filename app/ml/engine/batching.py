"""Rows of token ids, and batches whose answers stand in the same columns.

A prompt is padded on its left and an answer on its right, so the logits of the last S positions are all that a batch
needs: the head is never computed for a prompt.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from app.ml.codes import SEPARATOR, answer_tokens
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.soft_targets import SoftTargets
from app.ml.errors import NothingToTrain
from app.ml.formats.example import Example
from app.ml.prompting import PromptRenderer, PromptView, SolvedQuestion
from app.ml.tokens import TextTokenizer

IGNORED = -100


@dataclass(frozen=True)
class TokenRow:
    """One example as ids: the prompt with its BOS, the answer with its end."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    example: int = field(default=-1, compare=False)
    """Place in the file of the example that it was made of; -1: of none"""


@dataclass(frozen=True)
class Batch:
    """A padded batch; P is the longest prompt, S the longest answer."""

    input_ids: torch.Tensor
    """[B, P + S - 1] int64"""
    attention_mask: torch.Tensor
    """[B, P + S - 1] int64, 0 at padding"""
    position_ids: torch.Tensor
    """[B, P + S - 1] int64, from 0 at each row's first token"""
    labels: torch.Tensor
    """[B, S] int64: what the last S positions predict, -100 where not trained"""
    label_count: int
    allowed: torch.Tensor | None = None
    """[label_count, C] bool: what competes at each trained position; `labels` are then columns. None: everything"""
    soft: torch.Tensor | None = None
    """[label_count, C] fp32: what teachers would choose there; None: nobody was asked"""


def tokenize_examples(
    examples: Sequence[Example],
    renderer: PromptRenderer,
    tokenizer: TextTokenizer,
    *,
    cutoff_len: int,
    are_trained: bool = False,
) -> tuple[list[TokenRow], int]:
    """Returns the rows and how many were left out because their answer alone passes `cutoff_len`.

    A prompt that is too long loses tokens after its BOS, at its start. With `are_trained` no prompt shows its own row.

    Raises:
        NothingToTrain: no row is left.
    """
    tokens = RowTokens(renderer, tokenizer, cutoff_len)
    found = [
        tokens.row_of(
            example.question, example.codes, place, PromptView(own=tokens.solved(example)) if are_trained else PromptView()
        )
        for place, example in enumerate(examples)
    ]
    rows = [row for row in found if row is not None]
    if not rows:
        raise NothingToTrain(
            f"No row fits into cutoff_len = {cutoff_len} tokens. Raise cutoff_len or shorten the answers.", param="cutoff_len"
        )
    return rows, len(examples) - len(rows)


class RowTokens:
    """Turns questions and codes into rows of ids."""

    def __init__(self, renderer: PromptRenderer, tokenizer: TextTokenizer, cutoff_len: int) -> None:
        self.renderer, self._tokenizer, self._cutoff_len = renderer, tokenizer, cutoff_len
        self._separator = tokenizer.encode(SEPARATOR)

    def fits(self, codes: Sequence[str]) -> bool:
        """Says whether an answer leaves room for a prompt."""
        return self._room(self._answer(codes)) >= 2

    def solved(self, example: Example) -> SolvedQuestion:
        """Returns a training row as prompts show it."""
        return SolvedQuestion(self.renderer.wrapper.strip(example.question), example.codes)

    def shown(self, question: str, view: PromptView) -> list[SolvedQuestion]:
        """Returns the training questions that a prompt shows, the nearest first."""
        return self.renderer.shown(question, self._tokenizer, view)

    def row_of(self, question: str, codes: Sequence[str], place: int, view: PromptView) -> TokenRow | None:
        """Returns the row of the example at a place; None where the answer alone passes `cutoff_len`."""
        answer, tokenizer = self._answer(codes), self._tokenizer
        prompt = self.renderer.encode(question, tokenizer, view)
        room = self._room(answer)
        if room < 2:
            return None
        if len(prompt) > room:
            bos = prompt[:1] if tokenizer.bos_id is not None else []
            prompt = bos + prompt[len(prompt) - room + len(bos) :]
        return TokenRow(tuple(prompt), tuple(answer), place)

    def _answer(self, codes: Sequence[str]) -> list[int]:
        return answer_tokens([self._tokenizer.encode(code) for code in codes], self._separator, self._tokenizer.eos_id)

    def _room(self, answer: Sequence[int]) -> int:
        return self._cutoff_len - len(answer)


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """Returns the order of rows in an epoch: a pure function of seed and epoch, so a resumed run continues it."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


class RowSource(Protocol):
    """Training rows that may differ from epoch to epoch."""

    def __len__(self) -> int:
        """Rows of an epoch."""
        ...

    def row(self, place: int, epoch: int) -> TokenRow:
        """Returns a row as it is in an epoch; a pure function, since a resumed run asks anew."""
        ...


@dataclass(frozen=True)
class SameRows:
    """Rows that are the same in every epoch."""

    rows: Sequence[TokenRow]

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, place: int, epoch: int) -> TokenRow:
        """Returns the row."""
        return self.rows[place]


def step_rows(rows: RowSource, step: int, *, batch_size: int, seed: int) -> list[TokenRow]:
    """Returns the rows of optimiser step `step` (from 0): `batch_size`, or what is left at an epoch's end."""
    steps_per_epoch = -(-len(rows) // batch_size)
    epoch, place = divmod(step, steps_per_epoch)
    order = epoch_order(len(rows), seed=seed, epoch=epoch)
    return [rows.row(index, epoch) for index in order[place * batch_size : (place + 1) * batch_size]]


def micro_batches(rows: Sequence[TokenRow], size: int) -> Iterator[list[TokenRow]]:
    """Cuts the rows of a step into micro-batches of like length, which wastes less padding."""
    by_length = sorted(rows, key=lambda row: len(row.prompt) + len(row.answer))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def trained_count(row: TokenRow, choices: ChoiceTable | None = None) -> int:
    """Returns how many of a row's tokens are in the loss: its whole answer, or of that the choices alone."""
    return len(row.answer) if choices is None else len(choices.of(row.answer).places)


def collate(
    rows: Sequence[TokenRow],
    *,
    pad_id: int,
    device: torch.device,
    choices: ChoiceTable | None = None,
    soft: SoftTargets | None = None,
) -> Batch:
    """Builds the tensors of one micro-batch on the device; with `choices` nothing else is trained.

    `soft`: over the same choices.
    """
    prompt_width = max(len(row.prompt) for row in rows)
    answer_width = max(len(row.answer) for row in rows)
    ids, mask, labels = [], [], []
    menus: list[int] = []
    for row in rows:
        left = prompt_width - len(row.prompt)
        right = answer_width - len(row.answer)
        # The last answer token is only predicted, never read.
        ids.append([pad_id] * left + list(row.prompt) + list(row.answer[:-1]) + [pad_id] * right)
        mask.append([0] * left + [1] * (len(row.prompt) + len(row.answer) - 1) + [0] * right)
        if choices is None:
            labels.append(list(row.answer) + [IGNORED] * right)
            continue
        chosen = choices.of(row.answer)
        columns = dict(zip(chosen.places, chosen.labels, strict=True))
        labels.append([columns.get(place, IGNORED) for place in range(answer_width)])
        menus += chosen.menus
    attention_mask = torch.tensor(mask, device=device)
    return Batch(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
        labels=torch.tensor(labels, device=device),
        label_count=sum(trained_count(row, choices) for row in rows),
        allowed=None if choices is None else choices.allowed(menus).to(device),
        soft=None if soft is None else soft.of((row.example, row.answer) for row in rows).to(device),
    )
