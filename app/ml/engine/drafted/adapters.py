"""The adapters in memory: their slots, grammars and drafts; the least recently used one makes room."""

import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.ml.adapter_card import AdapterCard
from app.ml.codes import AnswerGrammar, AnswerMode
from app.ml.engine.code_classifier import CodeClassifier, find_code_classifier
from app.ml.engine.code_shares import CodeShares, shares_of
from app.ml.engine.drafted.grammar_arrays import GrammarArrays, grammar_arrays
from app.ml.engine.drafted.network import CachedNetwork
from app.ml.engine.drafted.recall import Likely, Recall, nothing_likely
from app.ml.engine.drafted.slots import AdapterSlots, AdapterWeights, SlotShape, read_adapter
from app.ml.engine.drafted.successions import Successions, count_successions
from app.ml.engine.drafted.trie import EdgeArrays, HeadColumns
from app.ml.engine.novelty import References, find_references
from app.ml.engine.question_index import QuestionIndex, find_question_index
from app.ml.engine.solved_questions import bound_renderer
from app.ml.prompting import PromptRenderer
from app.ml.tokens import TextTokenizer


@dataclass(frozen=True)
class Vocabulary:
    """An adapter's grammar in one mode, and what drafts need of it."""

    grammar: AnswerGrammar
    arrays: GrammarArrays
    training: Successions
    edge_offset: int = -1
    """Where its edges stand on the device; -1 before it has a place"""

    @classmethod
    def make(cls, grammar: AnswerGrammar, index: QuestionIndex | None) -> "Vocabulary":
        """Counts the index's answers; may run in any thread."""
        answers = [] if index is None else zip(index.answers, index.frequencies.tolist(), strict=True)
        return cls(grammar, grammar_arrays(grammar), count_successions(grammar, answers))


@dataclass(eq=False)
class LoadedAdapter:
    """One adapter in memory."""

    checksum: str
    card: AdapterCard
    slot: int
    serial: int
    """Never the same twice: keys and values computed with other weights are told by it."""
    renderer: PromptRenderer
    index: QuestionIndex | None
    recall: Recall | None
    references: References | None
    classifier: CodeClassifier | None
    tokenizer: TextTokenizer
    """Of its prompts and answers"""
    users: int = 0
    """Questions under way: while there are any, it keeps its slot."""
    vocabularies: dict[AnswerMode, Vocabulary] = field(default_factory=dict)

    @property
    def inverse_temperature(self) -> float:
        """What logits are multiplied by before they become confidences."""
        calibration = self.card.calibration
        return 1.0 if calibration is None else 1.0 / calibration.temperature

    @property
    def smoothing(self) -> float:
        """The label smoothing that it was trained with."""
        return self.card.spec.label_smoothing_factor

    def shares(self, question: str, mode: AnswerMode, *, factor: float) -> CodeShares | None:
        """Returns what its classifier says of a question; None where it has none, or codes outside the vocabulary may be said."""
        if mode != "closed":
            return None
        found = shares_of(self.classifier, self.card, self.vocabularies[mode].grammar, [question], factor=factor)
        return None if found is None else found[0]

    def likely(self, question: str) -> Likely:
        """Returns what the nearest training questions were answered with; nothing without an index."""
        return nothing_likely() if self.recall is None else self.recall.likely(self.card.wrapper.strip(question))


@dataclass(frozen=True)
class ReadAdapter:
    """An adapter that was read and made ready in any thread, and only wants a slot."""

    checksum: str
    card: AdapterCard
    shape: SlotShape
    weights: AdapterWeights
    vocabulary: Vocabulary
    renderer: PromptRenderer
    index: QuestionIndex | None
    recall: Recall | None
    references: References | None
    """On the device; None where no question is called out of scope"""
    classifier: CodeClassifier | None


class AdapterShelf:
    """Owned by the engine's thread; `read` may run in any other meanwhile."""

    def __init__(self, network: CachedNetwork, tokenizer: TextTokenizer, slots: AdapterSlots) -> None:
        """Holds no adapter yet."""
        self._network, self._tokenizer, self._slots = network, tokenizer, slots
        self._serials = itertools.count(1)
        self.columns = HeadColumns(network.head)
        self.edges = EdgeArrays(network.device)
        self.loaded: OrderedDict[str, LoadedAdapter] = OrderedDict()
        self.on_moved: Callable[[], None] = lambda: None
        """Called when an array that captured passes read has moved."""
        self.most_edges = 1
        """Most edges of a node of any grammar so far."""

    def read(self, checksum: str, folder: Path, card: AdapterCard, shape: SlotShape) -> ReadAdapter:
        """Reads a verified folder."""
        grammar = card.grammar_on(self._tokenizer)
        weights = read_adapter(folder, self._network, shape)
        references = None if card.novelty is None else find_references(folder)
        if references is not None:
            references = references.to(self._network.device, self._network.dtype)
        index = find_question_index(folder)
        # Refused, and made ready, now rather than at its first question.
        renderer = bound_renderer(card.renderer, index, card.vocabulary)
        recall = None if index is None else Recall(index, grammar)
        vocabulary = Vocabulary.make(grammar, index)
        classifier = find_code_classifier(folder)
        return ReadAdapter(checksum, card, shape, weights, vocabulary, renderer, index, recall, references, classifier)

    def needs_growth(self, shape: SlotShape) -> bool:
        """Says whether the slots must be made larger first, which only is possible while no question is under way."""
        return not self._slots.has_room_for(shape)

    def grow(self, shape: SlotShape) -> None:
        """Makes the slots larger; adapters for which there is no slot any more leave."""
        self._slots.grow(shape)
        for adapter in [one for one in self.loaded.values() if one.slot >= self._slots.count]:
            self._drop(adapter)
        self.on_moved()

    def install(self, read: ReadAdapter) -> LoadedAdapter | None:
        """Puts an adapter into a slot; None while every slot's adapter has questions under way."""
        if (there := self.loaded.get(read.checksum)) is not None:
            return there
        taken = {adapter.slot for adapter in self.loaded.values()}
        slot = next((number for number in range(self._slots.count) if number not in taken), None)
        if slot is None:
            oldest = next((adapter for adapter in self.loaded.values() if not adapter.users), None)
            if oldest is None:
                return None
            slot = oldest.slot
            self._drop(oldest)
        self._slots.write(slot, read.weights)
        adapter = LoadedAdapter(
            read.checksum,
            read.card,
            slot,
            next(self._serials),
            read.renderer,
            read.index,
            read.recall,
            read.references,
            read.classifier,
            read.card.tokenizer_on(self._tokenizer),
        )
        adapter.vocabularies["closed"] = self._add(read.vocabulary)
        self.loaded[read.checksum] = adapter
        return adapter

    def vocabulary(self, adapter: LoadedAdapter, mode: AnswerMode) -> Vocabulary:
        """Returns an adapter's grammar in a mode, made when it is first wanted."""
        found = adapter.vocabularies.get(mode)
        if found is None:
            grammar = adapter.card.grammar_on(self._tokenizer, mode)
            found = adapter.vocabularies[mode] = self._add(Vocabulary.make(grammar, adapter.index))
        return found

    def touch(self, checksum: str) -> LoadedAdapter:
        """Returns an adapter in memory, now the most recently used.

        Raises:
            KeyError: it is not in memory.
        """
        self.loaded.move_to_end(checksum)
        return self.loaded[checksum]

    def _add(self, vocabulary: Vocabulary) -> Vocabulary:
        grammar = vocabulary.grammar
        columns, head_moved = self.columns.columns_of(grammar.edge_token)
        offset, edges_moved = self.edges.add(grammar, columns)
        most = max(stop - start for start, stop in itertools.pairwise(grammar.edge_start))
        if head_moved or edges_moved or most > self.most_edges:
            self.most_edges = max(self.most_edges, most)
            self.on_moved()
        return replace(vocabulary, edge_offset=offset)

    def _drop(self, adapter: LoadedAdapter) -> None:
        for vocabulary in adapter.vocabularies.values():
            self.edges.remove(vocabulary.grammar, vocabulary.edge_offset)
        del self.loaded[adapter.checksum]
