"""Trained adapters as teachers: their mean distribution over what closed answers allow, for every training row.

Asked once, before the training, one teacher after the other (distillation of an ensemble, arXiv 1503.02531).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from app.ml.adapter_card import read_card
from app.ml.code_tokens import CodeTokenizer
from app.ml.engine.batching import TokenRow, collate, tokenize_examples, trained_count
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.device import empty_cache
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import load_adapter
from app.ml.engine.loss import answer_logits
from app.ml.engine.objective import Objective, choice_log_probabilities
from app.ml.engine.packed.network import PackedNetwork, find_packed_network
from app.ml.engine.packed.packs import pack_rows, plan_packs
from app.ml.engine.question_index import find_question_index
from app.ml.engine.soft_targets import SoftTargets
from app.ml.engine.solved_questions import bound_renderer
from app.ml.errors import AdapterMismatch, DistillationTooLarge
from app.ml.formats.example import Example
from app.ml.tokens import TextTokenizer

# Enough for a GPU to be busy, and little memory without gradients.
_PACK_TOKENS = 8192
_MOST_BYTES = 2**30

CutShort = Callable[[], bool]
"""Asked after each pack: shall the rest be left?"""


def ask_teachers(
    base: LoadedModel,
    teachers: Sequence[Path],
    examples: Sequence[Example],
    choices: ChoiceTable,
    *,
    cutoff_len: int,
    temperature: float,
    is_cut_short: CutShort = lambda: False,
) -> SoftTargets | None:
    """Returns the mean over teachers of their softmax at a temperature, by example; None if cut short.

    `teachers`: verified folders of adapters. Each is asked in the prompt that it was trained with; its own codes do not
    matter, because the choices are those of the examples' answers. The base model is left as it was.

    Raises:
        AdapterMismatch: a teacher was trained on another base model.
        DistillationTooLarge: the distributions would take more than 1 GiB.
    """
    means: dict[int, torch.Tensor] = {}
    answers: dict[int, tuple[int, ...]] = {}
    for folder in teachers:
        card = read_card(folder)
        if card.base_model_checksum != base.checksum:
            raise AdapterMismatch(
                f"An adapter of distill_from was trained on {card.base_model!r}, not on these weights of {base.name!r}.",
                param="distill_from",
            )
        if not _share_tokens(card.tokenizer_on(base.tokenizer), base.tokenizer):
            raise AdapterMismatch(
                "An adapter of distill_from has other tokens for codes. Train both on the same file with the same answer_format.",
                param="distill_from",
            )
        renderer = bound_renderer(card.renderer, find_question_index(folder), card.vocabulary)
        rows, _ = tokenize_examples(examples, renderer, base.tokenizer, cutoff_len=cutoff_len, are_trained=True)
        count = sum(trained_count(row, choices) for row in rows)
        if count * len(choices.tokens) * 4 > _MOST_BYTES:
            raise DistillationTooLarge(
                f"{count} choices among {len(choices.tokens)} tokens are too many to keep what teachers say of each. "
                "Leave distill_from out, or train on fewer rows (max_samples).",
                param="distill_from",
            )
        said = _say(base, folder, rows, choices, temperature, is_cut_short)
        if said is None:
            return None
        for row in rows:
            part = said[row.example] / len(teachers)
            means[row.example] = means[row.example] + part if row.example in means else part
            answers[row.example] = row.answer
    return SoftTargets(choices, {example: (answers[example], mean) for example, mean in means.items()})


def _share_tokens(teacher: TextTokenizer, learner: TextTokenizer) -> bool:
    """Says whether a teacher writes every code of the learner's in the learner's tokens."""
    if not isinstance(learner, CodeTokenizer):
        return not isinstance(teacher, CodeTokenizer)
    return all(teacher.encode(code) == [token] for code, token in learner.token_of.items())


@torch.no_grad()
def _say(
    base: LoadedModel,
    folder: Path,
    rows: Sequence[TokenRow],
    choices: ChoiceTable,
    temperature: float,
    is_cut_short: CutShort,
) -> dict[int, torch.Tensor] | None:
    """Returns one teacher's distributions by example, `[its choices, C]` fp32 on the CPU."""
    objective = Objective(choices)
    network = load_adapter(base.network, folder, "teacher")
    said: dict[int, torch.Tensor] = {}
    try:
        packed = find_packed_network(network, dropout=0.0, objective=objective)
        if packed is not None:
            packed.refresh()
        for pack in plan_packs(rows, _PACK_TOKENS):
            logits, allowed = _logits(base, network, packed, pack, objective)
            probabilities = choice_log_probabilities(logits / temperature, allowed).exp().cpu()
            start = 0
            for row in pack:
                stop = start + trained_count(row, choices)
                said[row.example] = probabilities[start:stop].clone()
                start = stop
            if is_cut_short():
                return None
    finally:
        base.network = network.unload()
        empty_cache(base.device)
    return said


def _logits(
    base: LoadedModel, network: object, packed: PackedNetwork | None, rows: Sequence[TokenRow], objective: Objective
) -> tuple[torch.Tensor, torch.Tensor]:
    if packed is not None:
        pack = pack_rows(rows, choices=objective.choices).on(base.device)
        assert pack.allowed is not None
        return packed.choice_logits(pack), pack.allowed
    batch = collate(rows, pad_id=base.tokenizer.pad_id, device=base.device, choices=objective.choices)
    assert batch.allowed is not None
    return answer_logits(network, batch, objective), batch.allowed
