"""Answers of any causal LM that transformers has: padded batches through peft, one adapter at a time, a token a pass.

Not thread-safe: one thread asks.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.ml.adapter_card import AdapterCard
from app.ml.codes import MAX_FREE_TOKENS, AnswerGrammar, AnswerMode, CodeVocabulary, parse_answer
from app.ml.engine.asks import EngineAnswer
from app.ml.engine.code_classifier import CodeClassifier, find_code_classifier
from app.ml.engine.code_shares import CodeShares, shares_of
from app.ml.engine.decoding import DecodedAnswer, decode_constrained, decode_free, observe_constrained
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import load_adapter
from app.ml.engine.observing import Observation
from app.ml.engine.question_index import find_question_index
from app.ml.engine.solved_questions import bound_renderer
from app.ml.prompting import PromptRenderer
from app.ml.tokens import TextTokenizer

MAX_ADAPTERS = 16
PADDED_ROWS = 16


@dataclass(frozen=True)
class _Slot:
    card: AdapterCard
    renderer: PromptRenderer
    tokenizer: TextTokenizer
    grammars: dict[AnswerMode, AnswerGrammar]
    classifier: CodeClassifier | None

    def shares(self, questions: Sequence[str]) -> list[CodeShares] | None:
        """Returns what its classifier says of questions; None where it has none."""
        return shares_of(self.classifier, self.card, self.grammars["closed"], questions)


class PaddedEngine:
    """Answers with a base model alone (free text, cut into codes) or with an adapter (valid codes by construction)."""

    def __init__(self, base: LoadedModel) -> None:
        self._base = base
        self._network: Any = base.network
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    def holds(self, checksum: str) -> bool:
        """Says whether an adapter is in memory."""
        return checksum in self._slots

    def card_of(self, checksum: str) -> AdapterCard:
        """Returns the card of an adapter in memory."""
        return self._slots[checksum].card

    def renderer_of(self, checksum: str) -> PromptRenderer:
        """Returns the renderer of an adapter in memory."""
        return self._slots[checksum].renderer

    def tokenizer_of(self, checksum: str) -> TextTokenizer:
        """Returns the tokenizer of the prompts and answers of an adapter in memory."""
        return self._slots[checksum].tokenizer

    def load(self, checksum: str, folder: Path, card: AdapterCard) -> None:
        """Takes a verified adapter into memory; the least recently used one leaves when there are 16."""
        grammar = card.grammar_on(self._base.tokenizer)
        renderer = bound_renderer(card.renderer, find_question_index(folder), card.vocabulary)
        while len(self._slots) >= MAX_ADAPTERS:
            oldest, _ = self._slots.popitem(last=False)
            self._network.delete_adapter(oldest)
        self._network = load_adapter(self._network, folder, checksum)
        tokenizer = card.tokenizer_on(self._base.tokenizer)
        self._slots[checksum] = _Slot(card, renderer, tokenizer, {"closed": grammar}, find_code_classifier(folder))

    def answer(
        self,
        prompts: Sequence[list[int]],
        *,
        questions: Sequence[str],
        checksum: str | None,
        alternatives: int,
        mode: AnswerMode,
    ) -> list[EngineAnswer]:
        """Answers up to 16 prompts of questions with one adapter that `holds`, or with the base model for `checksum` None."""
        if checksum is None or mode == "free":
            return self._free(prompts, checksum)
        return self._constrained(prompts, questions, checksum, alternatives, mode)

    def observe(self, prompts: Sequence[list[int]], questions: Sequence[str], checksum: str) -> list[Observation]:
        """Returns greedy answers with what the model weighed on its way."""
        self._slots.move_to_end(checksum)
        self._network.set_adapter(checksum)
        slot = self._slots[checksum]
        grammar, pad_id, device = slot.grammars["closed"], self._base.tokenizer.pad_id, self._base.device
        observations: list[Observation] = []
        for start in range(0, len(prompts), PADDED_ROWS):
            part = slice(start, start + PADDED_ROWS)
            observations += observe_constrained(
                self._network, prompts[part], grammar, pad_id=pad_id, device=device, shares=slot.shares(questions[part])
            )
        return observations

    def _constrained(
        self, prompts: Sequence[list[int]], questions: Sequence[str], checksum: str, alternatives: int, mode: AnswerMode
    ) -> list[EngineAnswer]:
        self._slots.move_to_end(checksum)
        slot = self._slots[checksum]
        self._network.set_adapter(checksum)
        grammar = self._grammar(slot, mode)
        tokenizer, device = slot.tokenizer, self._base.device
        shares = slot.shares(questions) if mode == "closed" else None
        best = decode_constrained(
            self._network, prompts, grammar, pad_id=tokenizer.pad_id, device=device, decode=tokenizer.decode, shares=shares
        )
        beams: list[list[DecodedAnswer]] = [[] for _ in prompts]
        if alternatives:
            beams = decode_constrained(
                self._network,
                prompts,
                grammar,
                pad_id=tokenizer.pad_id,
                device=device,
                width=alternatives + 1,
                decode=tokenizer.decode,
                shares=shares,
            )
        others = [
            tuple(other for other in beam if other.codes != answer.codes)[:alternatives]
            for (answer,), beam in zip(best, beams, strict=True)
        ]
        vocabulary = slot.card.vocabulary
        return [
            EngineAnswer(
                best=answer,
                alternatives=found,
                prompt_tokens=len(prompt),
                completion_tokens=answer.tokens,
                in_vocabulary=known_codes(answer, vocabulary),
                alternatives_in_vocabulary=tuple(known_codes(other, vocabulary) for other in found),
                passes=answer.tokens,
            )
            for (answer,), found, prompt in zip(best, others, prompts, strict=True)
        ]

    def _free(self, prompts: Sequence[list[int]], checksum: str | None) -> list[EngineAnswer]:
        tokenizer, device = self._base.tokenizer, self._base.device
        most, known = MAX_FREE_TOKENS, None
        context = self._without_adapters()
        if checksum is not None:
            slot, context = self._slots[checksum], nullcontext()
            tokenizer = slot.tokenizer
            self._network.set_adapter(checksum)
            most, known = max(most, min(256, slot.grammars["closed"].max_tokens)), slot.card.vocabulary
        with context:
            texts = decode_free(self._network, prompts, tokenizer, device=device, max_new_tokens=most)
        return [
            free_answer(text, probability, prompt_tokens=len(prompt), tokens=len(tokenizer.encode(text)), known=known)
            for (text, probability), prompt in zip(texts, prompts, strict=True)
        ]

    def _grammar(self, slot: _Slot, mode: AnswerMode) -> AnswerGrammar:
        if mode not in slot.grammars:
            slot.grammars[mode] = slot.card.grammar_on(self._base.tokenizer, mode)
        return slot.grammars[mode]

    def _without_adapters(self) -> Any:
        return self._network.disable_adapter() if self._slots else nullcontext()


def known_codes(answer: DecodedAnswer, vocabulary: CodeVocabulary) -> tuple[bool, ...]:
    """Returns of each code whether the vocabulary lists it."""
    return tuple(code in vocabulary for code in answer.codes)


def free_answer(
    text: str, probability: float, *, prompt_tokens: int, tokens: int, known: CodeVocabulary | None, passes: int = 0
) -> EngineAnswer:
    """Returns what nothing constrained, cut into codes; the whole text's probability stands for each of them."""
    codes = parse_answer(text)
    return EngineAnswer(
        best=DecodedAnswer(codes, (probability,) * len(codes), probability, tokens),
        alternatives=(),
        prompt_tokens=prompt_tokens,
        completion_tokens=tokens,
        in_vocabulary=tuple(known is not None and code in known for code in codes),
        passes=passes or tokens,
    )
