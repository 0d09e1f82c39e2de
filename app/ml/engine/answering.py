"""One base model in memory, many adapters on it, questions in, answers out.

Gemma, Llama, Mistral and Qwen are answered by the drafted engine, any other causal LM padded, through transformers and peft.
Questions may be submitted from any thread; one thread, the owner, calls `step` while there is work. `answer` and its kin do
both, for programs of one thread.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from app.durable import BrokenFolder, verify_folder
from app.ml.adapter_card import AdapterCard, read_card
from app.ml.calibration import Calibration
from app.ml.codes import AnswerMode, DecideBy
from app.ml.engine.asks import Ask, EngineAnswer
from app.ml.engine.deciding import decided
from app.ml.engine.drafted.engine import DraftedEngine
from app.ml.engine.drafted.free import FreeQuestion
from app.ml.engine.drafted.questions import Question
from app.ml.engine.loading import LoadedModel
from app.ml.engine.observing import Observation
from app.ml.engine.packed.anatomy import find_anatomy
from app.ml.engine.padded import PADDED_ROWS, PaddedEngine, free_answer, known_codes
from app.ml.errors import AdapterMismatch, PromptTooLong
from app.ml.prompting import MAX_PROMPT_TOKENS, PromptRenderer, PromptView, SolvedQuestion
from app.ml.tokens import TextTokenizer

__all__ = ["MAX_PROMPT_TOKENS", "AnswerEngine", "Ask", "EngineAnswer"]


class AnswerEngine:
    """Answers with a base model alone (free text, cut into codes) or with an adapter (valid codes by construction)."""

    def __init__(self, base: LoadedModel, *, adapter_gib: float | None = None, most_adapters: int = 64) -> None:
        """`adapter_gib`: memory for adapters; None: a quarter of what is free, at most 4 GiB."""
        self._base = base
        self.drafted: DraftedEngine | None = None
        if find_anatomy(_plain(base)) is not None:
            self.drafted = DraftedEngine(base, adapter_gib=adapter_gib, most_adapters=most_adapters)
        self._padded: PaddedEngine | None = None
        self._padded_waiting: deque[tuple[Ask, list[int], Future[EngineAnswer]]] = deque()
        self._on_work: Callable[[], None] = lambda: None
        self._has_owner = False

    @property
    def base(self) -> LoadedModel:
        """The base model that this engine holds."""
        return self._base

    def holds(self, checksum: str) -> bool:
        """Says whether an adapter is in memory."""
        return self._is_drafted(checksum) or (self._padded is not None and self._padded.holds(checksum))

    def vocabulary_of(self, checksum: str) -> frozenset[str]:
        """Returns the codes that an adapter in memory may answer with."""
        return frozenset(self._card_of(checksum).vocabulary.codes)

    def load(self, checksum: str, folder: Path) -> None:
        """Takes an adapter into memory; the least recently used one leaves where there is no room.

        With a thread that owns the engine, call it from any other: reading never holds up answers.

        Raises:
            AdapterMismatch: it was trained on another base model, or its files are not those of the checksum.
        """
        self._wait_for(self.start_loading(checksum, folder))

    def start_loading(self, checksum: str, folder: Path) -> "Future[Any]":
        """Reads an adapter's folder in the calling thread; the future ends when the adapter has its place.

        Raises:
            AdapterMismatch: as `load`.
        """
        try:
            found = verify_folder(folder)
        except BrokenFolder as error:
            raise AdapterMismatch("The adapter's files are damaged. Restore them from a backup, or train it again.") from error
        if found != checksum:
            raise AdapterMismatch("The adapter's files are not those of its checksum.")
        return self._start_loading(checksum, folder)

    def load_unsealed(self, name: str, folder: Path) -> None:
        """Takes an adapter of this process's own making into memory under a name, before its folder is sealed."""
        self._wait_for(self._start_loading(name, folder))

    def submit(self, ask: Ask, *, deadline: float | None = None) -> "Future[EngineAnswer]":
        """Puts a question in; `deadline` on `time.monotonic`. Cancelling the future takes it out again.

        Raises:
            PromptTooLong: the question has more than 2048 tokens.
            KeyError: the adapter is not in memory.
        """
        return self._submit(ask, self._prompt(ask), deadline)

    def _submit(self, ask: Ask, prompt: list[int], deadline: float | None) -> "Future[EngineAnswer]":
        drafted = self.drafted
        if drafted is not None and (ask.checksum is None or self._is_drafted(ask.checksum)):
            return drafted.submit(ask, prompt, partial(self._answer_of, ask), deadline=deadline)
        future: Future[EngineAnswer] = Future()
        self._padded_waiting.append((ask, prompt, future))
        self._on_work()
        return future

    @property
    def on_work(self) -> Callable[[], None]:
        """Called when there is something to do, from the thread that brings it."""
        return self._on_work

    @on_work.setter
    def on_work(self, call: Callable[[], None]) -> None:
        self._on_work, self._has_owner = call, True
        if self.drafted is not None:
            self.drafted.on_work = call

    @property
    def has_work(self) -> bool:
        """Says whether `step` would do something."""
        return bool(self._padded_waiting) or (self.drafted is not None and self.drafted.has_work)

    def step(self) -> None:
        """Does a turn of what there is to do; only the owner calls it."""
        if self._padded_waiting:
            self._answer_padded()
        if self.drafted is not None:
            self.drafted.step()

    def prepare(self) -> bool:
        """Makes one thing ready that a question would else wait for; returns whether there was one. For idle moments."""
        return self.drafted is not None and self.drafted.prepare()

    def warm_up(self) -> None:
        """Makes everything ready that questions would else wait for."""
        while self.prepare():
            pass

    def give_up(self, error: Exception) -> None:
        """Answers everything under way and waiting with an error: the engine will not work any more."""
        while self._padded_waiting:
            _, _, future = self._padded_waiting.popleft()
            if not future.done():
                future.set_exception(error)
        if self.drafted is not None:
            self.drafted.give_up(error)

    def answer(
        self,
        questions: Sequence[str],
        *,
        checksum: str | None,
        alternatives: int = 0,
        mode: AnswerMode = "closed",
        precision: float | None = None,
        decide_by: DecideBy = "answer",
    ) -> list[EngineAnswer]:
        """Answers questions with one adapter that `holds`, or with the base model for `checksum` None.

        `alternatives` is also the beam's width less one.

        Raises:
            PromptTooLong: a question has more than 2048 tokens.
        """
        return self.answer_mixed([Ask(question, checksum, alternatives, mode, precision, decide_by) for question in questions])

    def answer_mixed(self, asks: Sequence[Ask]) -> list[EngineAnswer]:
        """Answers questions of any adapters that the engine `holds`.

        Raises:
            PromptTooLong: a question has more than 2048 tokens.
        """
        prompts = [self._prompt(ask) for ask in asks]
        futures = [self._submit(ask, prompt, None) for ask, prompt in zip(asks, prompts, strict=True)]
        self._work_off()
        return [future.result() for future in futures]

    def observe(
        self, questions: Sequence[str], checksum: str, *, own: Sequence[SolvedQuestion | None] | None = None
    ) -> list[Observation]:
        """Returns greedy answers with all that calibration needs of them; the adapter's own calibration is left out.

        `own`: of each question the training row that it comes from.

        Raises:
            PromptTooLong: a question has more than 2048 tokens.
        """
        rows = own or [None] * len(questions)
        asks = [Ask(question, checksum, view=PromptView(own=row)) for question, row in zip(questions, rows, strict=True)]
        if not self._is_drafted(checksum):
            assert self._padded is not None
            return self._padded.observe([self._prompt(ask) for ask in asks], questions, checksum)
        assert self.drafted is not None
        futures = [self.drafted.submit(ask, self._prompt(ask), _observation_of, keeps_steps=True) for ask in asks]
        self._work_off()
        return [future.result() for future in futures]

    def _wait_for(self, future: "Future[Any]") -> None:
        if not self._has_owner:
            self._work_off()
        future.result()

    def _work_off(self) -> None:
        while self.has_work:
            self.step()

    def _is_drafted(self, checksum: str) -> bool:
        return self.drafted is not None and checksum in self.drafted.shelf.loaded

    def _card_of(self, checksum: str) -> AdapterCard:
        if self.drafted is not None and (adapter := self.drafted.shelf.loaded.get(checksum)) is not None:
            return adapter.card
        if self._padded is None:
            raise KeyError(checksum)
        return self._padded.card_of(checksum)

    def _renderer_of(self, checksum: str) -> PromptRenderer:
        if self.drafted is not None and (adapter := self.drafted.shelf.loaded.get(checksum)) is not None:
            return adapter.renderer
        if self._padded is None:
            raise KeyError(checksum)
        return self._padded.renderer_of(checksum)

    def _tokenizer_of(self, checksum: str) -> TextTokenizer:
        if self.drafted is not None and (adapter := self.drafted.shelf.loaded.get(checksum)) is not None:
            return adapter.tokenizer
        if self._padded is None:
            raise KeyError(checksum)
        return self._padded.tokenizer_of(checksum)

    def _start_loading(self, checksum: str, folder: Path) -> "Future[Any]":
        card = read_card(folder)
        if card.base_model_checksum != self._base.checksum:
            raise AdapterMismatch(
                f"The adapter was trained on {card.base_model!r} ({card.base_model_checksum[:12]}), but the answerer holds "
                f"{self._base.name!r} ({self._base.checksum[:12]}). Start an answerer with that base model."
            )
        read = None if self.drafted is None else self.drafted.read(checksum, folder, card)
        done: Future[None] = Future()
        if read is None:
            if self._padded is None:
                self._padded = PaddedEngine(self._base)
            self._padded.load(checksum, folder, card)
            done.set_result(None)
            return done
        assert self.drafted is not None
        return self.drafted.install(read)

    def _prompt(self, ask: Ask) -> list[int]:
        # The base model gets the same plain prompt that `quick` trains on: what it says before it has learnt anything.
        renderer = PromptRenderer("plain") if ask.checksum is None else self._renderer_of(ask.checksum)
        tokenizer = self._base.tokenizer if ask.checksum is None else self._tokenizer_of(ask.checksum)
        prompt = renderer.encode(ask.question, tokenizer, ask.view)
        if len(prompt) > MAX_PROMPT_TOKENS:
            raise PromptTooLong(f"A question has {len(prompt)} tokens; the limit is {MAX_PROMPT_TOKENS}.", param="question")
        return prompt

    def _answer_of(self, ask: Ask, question: Question | FreeQuestion) -> EngineAnswer:
        if isinstance(question, FreeQuestion):
            known = None if ask.checksum is None else self._card_of(ask.checksum).vocabulary
            return free_answer(
                question.text,
                question.probability,
                prompt_tokens=len(question.prompt),
                tokens=len(question.written),
                known=known,
                passes=question.passes,
            )
        best = question.best
        assert best is not None
        vocabulary = question.plan.grammar.vocabulary
        assert ask.checksum is not None
        card = self._card_of(ask.checksum)
        alternatives = tuple(other for other in question.beam if other.codes != best.codes)[: ask.alternatives]
        answer = EngineAnswer(
            best=best,
            alternatives=alternatives,
            prompt_tokens=len(question.prompt),
            completion_tokens=best.tokens,
            in_vocabulary=known_codes(best, vocabulary),
            alternatives_in_vocabulary=tuple(known_codes(other, vocabulary) for other in alternatives),
            passes=question.best_passes,
            calibrated=card.calibration is not None and card.calibration.is_calibrated,
            out_of_scope=card.novelty is not None and question.novelty is not None and question.novelty > card.novelty.limit,
            precision_threshold=self._threshold(card, ask.precision),
        )
        return decided(answer, ask.decide_by)

    def _threshold(self, card: AdapterCard, precision: float | None) -> float | None:
        return None if precision is None or card.calibration is None else _threshold_of(card.calibration, precision)

    def _answer_padded(self) -> None:
        first = self._padded_waiting[0][0]
        kind = (first.checksum, first.alternatives, first.mode)
        taken = [item for item in self._padded_waiting if (item[0].checksum, item[0].alternatives, item[0].mode) == kind][
            :PADDED_ROWS
        ]
        for item in taken:
            self._padded_waiting.remove(item)
        taken = [item for item in taken if item[2].set_running_or_notify_cancel()]
        if not taken:
            return
        if self._padded is None:
            self._padded = PaddedEngine(self._base)
        try:
            answers = self._padded.answer(
                [prompt for _, prompt, _ in taken],
                questions=[ask.question for ask, _, _ in taken],
                checksum=first.checksum,
                alternatives=first.alternatives,
                mode=first.mode,
            )
        except Exception as error:
            for _, _, future in taken:
                future.set_exception(error)
            return
        for (ask, _, future), answer in zip(taken, answers, strict=True):
            future.set_result(decided(answer, ask.decide_by))


# A threshold walks the curve of the held-out rows: not for every question anew.
_threshold_of = lru_cache(maxsize=1024)(Calibration.threshold_for)


def _plain(base: LoadedModel) -> Any:
    network = base.network
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def _observation_of(question: Question | FreeQuestion) -> Observation:
    assert isinstance(question, Question)
    assert question.best is not None and question.hidden is not None
    steps = tuple(step for step, _ in question.steps)
    return Observation(question.best.codes, steps, tuple(chosen for _, chosen in question.steps), question.hidden)
