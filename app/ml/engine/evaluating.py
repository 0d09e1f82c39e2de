"""What a network under training makes of held-out rows: its loss on them, and the answers that it would give.

Only watches: eval mode, no gradients, and the random state is put back, so a run goes on as if nobody had looked.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.ml.codes import AnswerGrammar
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.answering_in_training import IN_TRAINING, AdapterInTraining, find_engine
from app.ml.engine.batching import TokenRow, collate, tokenize_examples, trained_count
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.code_shares import CodeShares, shares_of
from app.ml.engine.decoding import decode_constrained
from app.ml.engine.device import empty_cache, random_state, restore_random_state
from app.ml.engine.loading import LoadedModel
from app.ml.engine.loss import summed_loss
from app.ml.engine.objective import Objective
from app.ml.engine.observing import Observation
from app.ml.errors import DatasetFormatError, NonFiniteLoss, OutOfDeviceMemory
from app.ml.even_places import even_places
from app.ml.formats.example import Example
from app.ml.metrics import AnswerScores, Codes, score_answers
from app.ml.prompting import MAX_PROMPT_TOKENS, PromptRenderer, SolvedQuestion

_ANSWER_BATCH_ROWS = 16

CutShort = Callable[[], bool]
"""Asked after each batch: shall the rest be left?"""


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows as tokens."""

    rows: Sequence[TokenRow]
    """For the loss: cut to `cutoff_len` as training rows are."""
    prompts: Sequence[Sequence[int]]
    """For the answers: whole, as the answerer sees them."""
    questions: Sequence[str]
    """The prompts' texts as the file has them."""
    expected: Sequence[Codes]
    """The true codes, one tuple a prompt."""
    grammar: AnswerGrammar
    adapter: AdapterInTraining | None = None
    """What lets the drafted engine answer the prompts; None: they are answered padded."""

    def shares(self, places: Sequence[int]) -> list[CodeShares] | None:
        """Returns what the adapter's classifier says of the questions at places; None where it has none."""
        if self.adapter is None:
            return None
        beside = self.adapter.companions
        return shares_of(beside.classifier, beside.card, self.grammar, [self.questions[place] for place in places])

    def spread(self, count: int) -> "HeldOut":
        """Returns the same with at most `count` prompts, evenly spread: files are often sorted by category."""
        if count >= len(self.prompts):
            return self
        places = even_places(len(self.prompts), count)
        return replace(
            self,
            prompts=[self.prompts[place] for place in places],
            questions=[self.questions[place] for place in places],
            expected=[self.expected[place] for place in places],
        )


def prepare_held_out(
    examples: Sequence[Example],
    renderer: PromptRenderer,
    base: LoadedModel,
    grammar: AnswerGrammar,
    *,
    cutoff_len: int,
    adapter: AdapterInTraining | None = None,
) -> tuple[HeldOut, int]:
    """Returns the held-out rows and how many have no loss because their answer alone passes `cutoff_len`.

    Raises:
        DatasetFormatError: a question is longer than the answerer takes. Better now than after hours of training.
        NothingToTrain: no row is left for the loss.
    """
    prompts = [renderer.encode(example.question, base.tokenizer) for example in examples]
    for example, prompt in zip(examples, prompts, strict=True):
        if len(prompt) > MAX_PROMPT_TOKENS:
            raise DatasetFormatError(
                f"Row {example.row} of the validation file has a question of {len(prompt)} tokens; the limit is "
                f"{MAX_PROMPT_TOKENS}. Shorten it and upload the file again.",
                param="validation_file",
            )
    rows, left_out = tokenize_examples(examples, renderer, base.tokenizer, cutoff_len=cutoff_len)
    questions, expected = [example.question for example in examples], [example.codes for example in examples]
    return HeldOut(rows, prompts, questions, expected, grammar, adapter), left_out


def evaluate(
    base: LoadedModel,
    network: Any,
    held_out: HeldOut,
    *,
    batch_rows: int,
    is_cut_short: CutShort,
    choices: ChoiceTable | None = None,
) -> dict[str, Any] | None:
    """Returns `eval_loss` (mean over all answer tokens of the rows) and the scores of generated answers; None if cut short.

    With `choices` the loss is the mean over the choices in those answers that can be said at all; 0 where none can.

    Raises:
        NonFiniteLoss: the held-out loss is NaN or infinite.
        OutOfDeviceMemory: not even one row fits.
    """
    with _only_watching(network, base.device):
        objective = Objective(choices)
        loss = _mean_loss(base, network, held_out.rows, objective, batch_rows=batch_rows, is_cut_short=is_cut_short)
        scores = None if loss is None else score_generated(base, network, held_out, is_cut_short=is_cut_short)
    return None if scores is None else {"eval_loss": loss, **scores.to_mapping()}


def score_generated(base: LoadedModel, network: Any, held_out: HeldOut, *, is_cut_short: CutShort) -> AnswerScores | None:
    """Answers every prompt within the grammar and scores the answers; None if cut short.

    Raises:
        OutOfDeviceMemory: not even one row fits.
    """
    given: list[Codes] = []
    engine = None if held_out.adapter is None else _find_engine(base, network, held_out.adapter)

    def answer(places: Sequence[int]) -> None:
        nonlocal engine
        if engine is None:
            prompts, shares = [held_out.prompts[place] for place in places], held_out.shares(places)
            answers = decode_constrained(
                network, prompts, held_out.grammar, pad_id=base.tokenizer.pad_id, device=base.device, shares=shares
            )
            given.extend(best.codes for (best,) in answers)
            return
        try:
            drafted = engine.answer([held_out.questions[place] for place in places], checksum=IN_TRAINING)
        except torch.OutOfMemoryError:
            # The rest is answered padded, which takes less memory.
            engine = None
            raise
        given.extend(one.best.codes for one in drafted)

    places = range(len(held_out.prompts))
    is_whole = _batch_by_batch(places, answer, batch_rows=_ANSWER_BATCH_ROWS, base=base, is_cut_short=is_cut_short)
    if engine is not None:
        # Gone before training goes on: its rows and slots are hundreds of megabytes.
        engine = None
        empty_cache(base.device)
    if not is_whole:
        return None
    return score_answers(given, held_out.expected, frozenset(held_out.grammar.vocabulary.codes))


def _find_engine(base: LoadedModel, network: Any, adapter: AdapterInTraining) -> AnswerEngine | None:
    try:
        return find_engine(base, network, adapter)
    except torch.OutOfMemoryError:
        pass
    empty_cache(base.device)
    return None


def observe_rows(
    engine: AnswerEngine,
    name: str,
    questions: Sequence[str],
    *,
    is_enough: Callable[[int], bool],
    own: Sequence[SolvedQuestion | None] | None = None,
) -> list[Observation]:
    """Observes questions in order with an adapter that the engine holds, until `is_enough` of those done, asked after each batch.

    `own`: of each question the training row that it comes from.

    Raises:
        OutOfDeviceMemory: not even one question fits.
        PromptTooLong: a question has more than 2048 tokens.
    """
    seen: list[Observation] = []
    _batch_by_batch(
        list(zip(questions, own or [None] * len(questions), strict=True)),
        lambda part: seen.extend(engine.observe([asked for asked, _ in part], name, own=[row for _, row in part])),
        batch_rows=_ANSWER_BATCH_ROWS,
        base=engine.base,
        is_cut_short=lambda: is_enough(len(seen)),
    )
    return seen


def _mean_loss(
    base: LoadedModel,
    network: Any,
    rows: Sequence[TokenRow],
    objective: Objective,
    *,
    batch_rows: int,
    is_cut_short: CutShort,
) -> float | None:
    sums: list[float] = []
    choices, pad_id = objective.choices, base.tokenizer.pad_id
    if choices is not None:
        rows = [row for row in rows if choices.find(row.answer) is not None]

    def add(part: Sequence[TokenRow]) -> None:
        batch = collate(part, pad_id=pad_id, device=base.device, choices=choices)
        sums.append(float(summed_loss(network, batch, objective)))

    # Rows of like length side by side waste less padding.
    in_order = sorted(rows, key=lambda row: len(row.prompt) + len(row.answer))
    if not _batch_by_batch(in_order, add, batch_rows=batch_rows, base=base, is_cut_short=is_cut_short):
        return None
    mean = math.fsum(sums) / max(1, sum(trained_count(row, choices) for row in rows))
    if not math.isfinite(mean):
        raise NonFiniteLoss(
            "The loss on the held-out rows is no longer a finite number. Lower learning_rate, or set precision to fp32.",
            param="learning_rate",
        )
    return mean


def _batch_by_batch(
    items: Sequence[Any], do: Callable[[Any], None], *, batch_rows: int, base: LoadedModel, is_cut_short: CutShort
) -> bool:
    """Does all items, in smaller batches where the device's memory is short; returns False if cut short."""
    start = 0
    while start < len(items):
        try:
            do(items[start : start + batch_rows])
        except torch.OutOfMemoryError as error:
            if batch_rows == 1:
                raise OutOfDeviceMemory(
                    "The device has no memory left to score one held-out row. Lower per_device_train_batch_size, set "
                    "eval_strategy to no, or take a smaller base model.",
                    param="eval_strategy",
                ) from error
        else:
            start += batch_rows
            if is_cut_short():
                return False
            continue
        # Outside the handler, whose traceback would keep the failed pass's tensors alive.
        batch_rows = max(1, batch_rows // 2)
        empty_cache(base.device)
    return True


@contextmanager
def _only_watching(network: Any, device: torch.device) -> Iterator[None]:
    was_training, random = network.training, random_state(device)
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)
        restore_random_state(device, random)
