"""What must be known of a model to ask another engine that serves it: the prompt of its training, its codes, its limits."""

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.blobs.keys import adapter_key
from app.blobs.store import BlobStore
from app.ml.adapter_card import AdapterCard, read_card
from app.ml.codes import MAX_FREE_TOKENS, CodeVocabulary
from app.ml.errors import AdapterMismatch, PromptTooLong
from app.ml.model_store import BaseModelFolder, ModelStore
from app.ml.prompting import MAX_PROMPT_TOKENS, PromptRenderer
from app.ml.tokens import TextTokenizer, load_tokenizer

_MAX_KEPT = 64


@dataclass(frozen=True)
class PromptedModel:
    """How one model is asked; `vocabulary` is None for a base model alone."""

    tokenizer: TextTokenizer
    renderer: PromptRenderer
    vocabulary: CodeVocabulary | None
    max_answer_tokens: int

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """Returns the questions' prompts as token ids, each with exactly one BOS where the base model wants one.

        Raises:
            PromptTooLong: a question has more than 2048 tokens.
        """
        prompts = [self.renderer.encode(question, self.tokenizer) for question in questions]
        longest = max(map(len, prompts))
        if longest > MAX_PROMPT_TOKENS:
            raise PromptTooLong(f"A question has {longest} tokens; the limit is {MAX_PROMPT_TOKENS}.", param="question")
        return prompts


class PromptedModels:
    """The last 64 models that were asked, read from the model store and the blob store; for several threads."""

    def __init__(self, store: ModelStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str | None], PromptedModel] = OrderedDict()

    def get(self, base_model: str, checksum: str | None) -> PromptedModel:
        """Returns a model, reading it on first use.

        Raises:
            BaseModelMissing: the base model's tokenizer is not in the model store.
            AdapterMismatch: the adapter is not in the blob store, is damaged, or was trained on other weights.
        """
        key = (base_model, checksum)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._read(self._store.get(base_model), checksum)
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _read(self, base: BaseModelFolder, checksum: str | None) -> PromptedModel:
        tokenizer = load_tokenizer(base.path)
        if checksum is None:
            # The answerer's prompt for a base model alone.
            return PromptedModel(tokenizer, PromptRenderer("plain"), None, MAX_FREE_TOKENS)
        card = self._card(checksum)
        if card.base_model_checksum != base.checksum:
            raise AdapterMismatch(
                f"The adapter was trained on {card.base_model!r} ({card.base_model_checksum[:12]}), but the model store holds "
                f"{base.name!r} ({base.checksum[:12]}). Import the base model that it was trained on.",
                param="model",
            )
        if card.code_token_ids is not None:
            raise AdapterMismatch(
                "The adapter answers in tokens that stand for codes, which only Dianda's answerer reads. Ask it there, or train "
                "with answer_format spelled.",
                param="model",
            )
        if card.has_classifier:
            raise AdapterMismatch(
                "A classifier has a say in the adapter's answers, which only Dianda's answerer asks. Ask it there, or train with "
                "classifier_weight 0.",
                param="model",
            )
        grammar = card.grammar_on(tokenizer)
        return PromptedModel(tokenizer, card.renderer, card.vocabulary, grammar.max_tokens)

    def _card(self, checksum: str) -> AdapterCard:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                return read_card(self._blobs.fetch(adapter_key(checksum), Path(scratch)))
            except FileNotFoundError as error:
                raise AdapterMismatch(
                    "The adapter's files are not in the blob store. Restore them from a backup, or train it again.", param="model"
                ) from error
            except (ValueError, KeyError, TypeError) as error:
                raise AdapterMismatch(
                    "The adapter's card is damaged. Restore its files from a backup, or train it again.", param="model"
                ) from error
