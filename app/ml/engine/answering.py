"""One base model in memory, several adapters on it, questions in, answers out.

Not thread-safe: one thread asks. The fast engine fills the same interface.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.durable import BrokenFolder, verify_folder
from app.ml.adapter_card import AdapterCard, read_card
from app.ml.codes import MAX_FREE_TOKENS, AnswerGrammar, AnswerMode, parse_answer
from app.ml.engine.decoding import DecodedAnswer, decode_constrained, decode_free
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import load_adapter
from app.ml.errors import AdapterMismatch, PromptTooLong
from app.ml.prompting import MAX_PROMPT_TOKENS, PromptRenderer

MAX_ADAPTERS = 16
_BATCH_ROWS = 16


@dataclass(frozen=True)
class EngineAnswer:
    """The best answer to one question, and what a beam found beside it."""

    best: DecodedAnswer
    alternatives: tuple[DecodedAnswer, ...]
    prompt_tokens: int
    completion_tokens: int
    in_vocabulary: tuple[bool, ...]
    passes: int = 0
    """Forward passes that the best answer took."""
    calibrated: bool = False
    out_of_scope: bool = False
    precision_threshold: float | None = None


@dataclass(frozen=True)
class _Slot:
    card: AdapterCard
    grammar: AnswerGrammar


class AnswerEngine:
    """Answers with a base model alone (free text, cut into codes) or with an adapter (valid codes by construction)."""

    def __init__(self, base: LoadedModel) -> None:
        self._base = base
        self._network: Any = base.network
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    @property
    def base(self) -> LoadedModel:
        """The base model that this engine holds."""
        return self._base

    def holds(self, checksum: str) -> bool:
        """Says whether an adapter is in memory."""
        return checksum in self._slots

    def vocabulary_of(self, checksum: str) -> frozenset[str]:
        """Returns the codes that an adapter in memory may answer with."""
        return frozenset(self._slots[checksum].card.vocabulary.codes)

    def load(self, checksum: str, folder: Path) -> None:
        """Takes an adapter into memory; the least recently used one leaves when there are 16.

        Raises:
            AdapterMismatch: it was trained on another base model, or its files are not those of the checksum.
        """
        try:
            found = verify_folder(folder)
        except BrokenFolder as error:
            raise AdapterMismatch("The adapter's files are damaged. Restore them from a backup, or train it again.") from error
        if found != checksum:
            raise AdapterMismatch("The adapter's files are not those of its checksum.")
        card = read_card(folder)
        if card.base_model_checksum != self._base.checksum:
            raise AdapterMismatch(
                f"The adapter was trained on {card.base_model!r} ({card.base_model_checksum[:12]}), but the answerer holds "
                f"{self._base.name!r} ({self._base.checksum[:12]}). Start an answerer with that base model."
            )
        tokenizer = self._base.tokenizer
        slot = _Slot(card, AnswerGrammar(card.vocabulary, tokenizer.encode, end_id=tokenizer.eos_id))
        while len(self._slots) >= MAX_ADAPTERS:
            oldest, _ = self._slots.popitem(last=False)
            self._network.delete_adapter(oldest)
        self._network = load_adapter(self._network, folder, checksum)
        self._slots[checksum] = slot

    def answer(
        self,
        questions: Sequence[str],
        *,
        checksum: str | None,
        alternatives: int = 0,
        mode: AnswerMode = "closed",
        precision: float | None = None,
    ) -> list[EngineAnswer]:
        """Answers questions with one adapter that `holds`, or with the base model for `checksum` None.

        `alternatives` is also the beam's width less one.

        Raises:
            PromptTooLong: a question has more than 2048 tokens.
        """
        answers: list[EngineAnswer] = []
        for start in range(0, len(questions), _BATCH_ROWS):
            part = questions[start : start + _BATCH_ROWS]
            answers += self._free(part) if checksum is None else self._constrained(part, checksum, alternatives)
        return answers

    def _constrained(self, questions: Sequence[str], checksum: str, alternatives: int) -> list[EngineAnswer]:
        self._slots.move_to_end(checksum)
        slot = self._slots[checksum]
        self._network.set_adapter(checksum)
        prompts = self._prompts(questions, slot.card.renderer)
        pad_id, device = self._base.tokenizer.pad_id, self._base.device
        best = decode_constrained(self._network, prompts, slot.grammar, pad_id=pad_id, device=device)
        beams: list[list[DecodedAnswer]] = [[] for _ in questions]
        if alternatives:
            beams = decode_constrained(self._network, prompts, slot.grammar, pad_id=pad_id, device=device, width=alternatives + 1)
        return [
            EngineAnswer(
                best=answer,
                alternatives=tuple(other for other in beam if other.codes != answer.codes)[:alternatives],
                prompt_tokens=len(prompt),
                completion_tokens=len(slot.grammar.encode_answer(answer.codes)),
                in_vocabulary=(True,) * len(answer.codes),
            )
            for (answer,), beam, prompt in zip(best, beams, prompts, strict=True)
        ]

    def _free(self, questions: Sequence[str]) -> list[EngineAnswer]:
        # The same plain prompt that `quick` trains on: what the base model says before it has learnt anything.
        prompts = self._prompts(questions, PromptRenderer("plain"))
        tokenizer = self._base.tokenizer
        with self._without_adapters():
            texts = decode_free(self._network, prompts, tokenizer, device=self._base.device, max_new_tokens=MAX_FREE_TOKENS)
        return [
            EngineAnswer(
                best=DecodedAnswer(parse_answer(text), (probability,) * len(parse_answer(text)), probability),
                alternatives=(),
                prompt_tokens=len(prompt),
                completion_tokens=len(tokenizer.encode(text)),
                in_vocabulary=(False,) * len(parse_answer(text)),
            )
            for (text, probability), prompt in zip(texts, prompts, strict=True)
        ]

    def _prompts(self, questions: Sequence[str], renderer: PromptRenderer) -> list[list[int]]:
        prompts = [renderer.encode(question, self._base.tokenizer) for question in questions]
        longest = max(map(len, prompts))
        if longest > MAX_PROMPT_TOKENS:
            raise PromptTooLong(f"A question has {longest} tokens; the limit is {MAX_PROMPT_TOKENS}.", param="question")
        return prompts

    def _without_adapters(self) -> Any:
        return self._network.disable_adapter() if self._slots else nullcontext()
