"""The loop: questions come in, passes go out, answers leave; owned by one thread, asked from any."""

import contextlib
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from app.ml.adapter_card import AdapterCard
from app.ml.codes import MAX_FREE_TOKENS
from app.ml.engine.asks import Ask
from app.ml.engine.code_shares import CodeShares
from app.ml.engine.drafted.adapters import AdapterShelf, LoadedAdapter, ReadAdapter
from app.ml.engine.drafted.ahead import compile_ahead
from app.ml.engine.drafted.drafting import DraftLimits
from app.ml.engine.drafted.feeding import Feeding
from app.ml.engine.drafted.free import FreeQuestion
from app.ml.engine.drafted.limits import EngineLimits
from app.ml.engine.drafted.lookout import Lookout
from app.ml.engine.drafted.network import CachedNetwork
from app.ml.engine.drafted.passes import FedAdapter
from app.ml.engine.drafted.questions import AnswerPlan, Question
from app.ml.engine.drafted.recall import Likely
from app.ml.engine.drafted.running import InFlight, PassRunner, judge
from app.ml.engine.drafted.slots import AdapterSlots, slot_shape_of
from app.ml.engine.loading import LoadedModel
from app.ml.engine.packed.anatomy import find_anatomy
from app.ml.errors import AnswerTooLong, DeadlinePassed

Answered = TypeVar("Answered")
_WIDE_TOKENS = 2560


@dataclass(eq=False)
class _Waiting:
    ask: Ask
    prompt: list[int]
    finish: Callable[[Question | FreeQuestion], object]
    future: "Future[Any]"
    deadline: float | None
    keeps_steps: bool = False
    likely: Likely | None = None
    """What the nearest training questions were answered with, where the lookout has been"""
    shares: CodeShares | None = None
    """What the adapter's classifier says, likewise"""


@dataclass(eq=False)
class _Live:
    waiting: _Waiting
    question: Question | FreeQuestion
    adapter: LoadedAdapter | None
    fed: FedAdapter


@dataclass(eq=False)
class _Lane:
    live: list[_Live] = field(default_factory=list)
    flight: InFlight | None = None
    flying: list[_Live] = field(default_factory=list)


class DraftedEngine:
    """Answers with adapters of one base model, of any number of questions and adapters in one pass."""

    def __init__(self, base: LoadedModel, *, adapter_gib: float | None, most_adapters: int) -> None:
        """Takes over a base model that `find_anatomy` knows; peft may have wrapped it."""
        network = base.network.get_base_model() if hasattr(base.network, "get_base_model") else base.network
        anatomy = find_anatomy(network)
        assert anatomy is not None
        self.base = base
        self.network = CachedNetwork(network, anatomy, most_positions=_WIDE_TOKENS + 8)
        self.limits = EngineLimits.for_device(
            self.network, adapter_gib=adapter_gib, most_adapters=most_adapters, wide_tokens=_WIDE_TOKENS
        )
        limits = self.limits
        self.rows = self.network.make_rows(
            narrow=(limits.narrow_rows, limits.narrow_tokens), wide=(limits.wide_rows, _WIDE_TOKENS)
        )
        slots = AdapterSlots(self.network, memory_bytes=limits.adapter_bytes, most=limits.most_adapters)
        self.shelf = AdapterShelf(self.network, base.tokenizer, slots)
        self.runner = PassRunner(self.network, self.rows, self.shelf, most_tokens=limits.most_pass_tokens)
        compile_ahead()
        self._lanes = [_Lane() for _ in range(limits.lanes)]
        self._turn = 0
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str | None, deque[_Waiting]] = OrderedDict()
        # Where the host prepares no second pass meanwhile, a thread beside would only take its time.
        self._lookout = Lookout(self.shelf) if limits.lanes > 1 else None
        self._installs: deque[tuple[ReadAdapter, Future[LoadedAdapter]]] = deque()
        self.on_work: Callable[[], None] = lambda: None
        """Called when there is something to do, from the thread that brings it."""

    # ---- asked from any thread

    def read(self, checksum: str, folder: Path, card: AdapterCard) -> ReadAdapter | None:
        """Reads an adapter's verified folder; None where its kind has no slot (factors on embeddings)."""
        shape = slot_shape_of(folder)
        return None if shape is None else self.shelf.read(checksum, folder, card, shape)

    def install(self, read: ReadAdapter) -> "Future[LoadedAdapter]":
        """Wants a slot for an adapter; it comes between two passes."""
        future: Future[LoadedAdapter] = Future()
        with self._lock:
            self._installs.append((read, future))
        self.on_work()
        return future

    def submit(
        self,
        ask: Ask,
        prompt: list[int],
        finish: Callable[[Question | FreeQuestion], Answered],
        *,
        deadline: float | None = None,
        keeps_steps: bool = False,
    ) -> "Future[Answered]":
        """Puts a question into its adapter's queue; the future brings what `finish` makes of it.

        `deadline` on `time.monotonic`. Cancelling the future takes the question out.
        """
        waiting = _Waiting(ask, prompt, finish, Future(), deadline, keeps_steps)
        with self._lock:
            self._waiting.setdefault(ask.checksum, deque()).append(waiting)
        self.on_work()
        return waiting.future

    @property
    def has_work(self) -> bool:
        """Says whether `step` would do something."""
        return bool(self._installs or self._waiting or any(lane.live or lane.flight for lane in self._lanes))

    # ---- the loop's own thread

    def step(self) -> None:
        """Does one lane's turn: takes in what its pass said, then starts its next one."""
        lane = self._lanes[self._turn]
        self._turn = (self._turn + 1) % len(self._lanes)
        if lane.flight is not None:
            self._land(lane)
        self._install_waiting()
        self._start(lane)

    def prepare(self) -> bool:
        """Captures one more shape of passes; returns whether one was missing. Nothing before the first adapter is there."""
        captured = self.runner.captured
        return captured is not None and bool(self.shelf.loaded) and captured.capture_one()

    def give_up(self, error: Exception) -> None:
        """Answers all questions and installations with an error."""
        with self._lock:
            waiting = [one.future for queue in self._waiting.values() for one in queue]
            waiting += [future for _, future in self._installs]
            self._waiting.clear()
            self._installs.clear()
        waiting += [live.waiting.future for lane in self._lanes for live in lane.live]
        for lane in self._lanes:
            lane.live, lane.flight, lane.flying = [], None, []
        for future in waiting:
            _settle(future, error)

    def run_until_idle(self) -> None:
        """Works off all there is."""
        while self.has_work:
            self.step()

    def _land(self, lane: _Lane) -> None:
        flight, flying = lane.flight, lane.flying
        assert flight is not None
        lane.flight, lane.flying = None, []
        said = flight.collect()
        judge(flight.feedings, said)
        for live in flying:
            question, row = live.question, live.question.row
            assert row is not None
            row.tokens = question.linear[: min(question.columns_held, len(question.linear))]
            try:
                is_done = question.is_done if isinstance(question, FreeQuestion) else question.walk()
            except Exception as error:
                self._leave(lane, live, error)
                continue
            if is_done:
                self._leave(lane, live, None)

    def _start(self, lane: _Lane) -> None:
        self._drop_given_up(lane)
        budget = self.limits.pass_tokens
        feedings: list[tuple[Feeding, _Live]] = []
        # What is under way goes first: it holds rows that others wait for.
        expected = len(lane.live) + min(self._waiting_count(), budget // 32)
        limits = self.limits.draft_limits(expected)
        if self._lookout is not None:
            with self._lock:
                self._lookout.look(itertools.chain.from_iterable(self._waiting.values()))
        for live in list(lane.live):
            if budget <= 0:
                break
            budget -= self._feed(lane, live, limits, feedings)
        while budget > 0 and (live_new := self._admit(lane)) is not None:
            budget -= self._feed(lane, live_new, limits, feedings)
        if not feedings:
            return
        feedings.sort(key=lambda pair: pair[1].fed.slot)
        lane.flying = [live for _, live in feedings]
        lane.flight = self.runner.launch([feeding for feeding, _ in feedings], [live.fed for live in lane.flying])

    def _feed(self, lane: _Lane, live: _Live, limits: DraftLimits, feedings: list[tuple[Feeding, _Live]]) -> int:
        question = live.question
        try:
            feeding = self._feeding_of(question, live, limits)
        except Exception as error:
            self._leave(lane, live, error)
            return 0
        if feeding is None:
            return 0
        if not feeding.tokens:
            assert isinstance(question, Question)
            question.walk()
            self._leave(lane, live, None)
            return 0
        feedings.append((feeding, live))
        return feeding.tokens

    def _feeding_of(self, question: Question | FreeQuestion, live: _Live, limits: DraftLimits) -> Feeding | None:
        piece = self.limits.prompt_piece
        if isinstance(question, FreeQuestion):
            return question.feed(most_linear=piece)
        feeding = question.feed(limits, most_linear=piece)
        if feeding is not None:
            return feeding
        # The row is full: what is written becomes prompt, in a wider row where this one has no room for that.
        question.settle()
        row = question.row
        assert row is not None
        if len(question.linear) + question.room_wanted > row.width:
            wider = self.rows.take(question.linear, row.owner, room=question.room_wanted)
            if wider is None:
                if len(question.linear) + question.room_wanted > self.rows.widest:
                    raise AnswerTooLong(
                        "The answer grows longer than the engine holds. Ask a shorter question.", param="question"
                    )
                return None
            self.rows.give_back(row)
            question.sit(wider)
        return question.feed(limits, most_linear=piece)

    def _admit(self, lane: _Lane) -> _Live | None:
        """Takes the next question in: adapters in turn, each one's questions in order."""
        while True:
            with self._lock:
                if not self._waiting or (self._installs and self._blocks_admission()):
                    return None
                checksum, queue = next(iter(self._waiting.items()))
                waiting = queue.popleft()
                if queue:
                    self._waiting.move_to_end(checksum)
                else:
                    del self._waiting[checksum]
            if waiting.future.cancelled():
                continue
            if waiting.deadline is not None and time.monotonic() > waiting.deadline:
                _settle(waiting.future, _too_late())
                continue
            try:
                live = self._seat(waiting)
            except Exception as error:
                _settle(waiting.future, error)
                continue
            if live is None:
                # No row is free: first in line again.
                with self._lock:
                    self._waiting.setdefault(checksum, deque()).appendleft(waiting)
                    self._waiting.move_to_end(checksum, last=False)
                return None
            lane.live.append(live)
            return live

    def _seat(self, waiting: _Waiting) -> _Live | None:
        ask, adapter = waiting.ask, None
        question: Question | FreeQuestion
        if ask.checksum is not None:
            adapter = self.shelf.touch(ask.checksum)
        if adapter is None or ask.mode == "free":
            most = MAX_FREE_TOKENS
            if adapter is not None:
                most = max(MAX_FREE_TOKENS, min(256, adapter.vocabularies["closed"].grammar.max_tokens))
            question = FreeQuestion(waiting.prompt, self.base.tokenizer if adapter is None else adapter.tokenizer, most)
            fed = FedAdapter(-1 if adapter is None else adapter.slot, 0)
        else:
            vocabulary = self.shelf.vocabulary(adapter, ask.mode)
            inverse = 1.0 if waiting.keeps_steps else adapter.inverse_temperature
            plan = AnswerPlan(
                grammar=vocabulary.grammar,
                arrays=vocabulary.arrays,
                decode=adapter.tokenizer.decode,
                likely=waiting.likely or adapter.likely(ask.question),
                training=vocabulary.training,
                inverse_temperature=inverse,
                smoothing=adapter.smoothing,
                # The temperature is of both together.
                shares=waiting.shares or adapter.shares(ask.question, ask.mode, factor=inverse),
                beam_width=ask.alternatives + 1,
                follow=ask.follow,
                keeps_steps=waiting.keeps_steps,
            )
            question = Question(waiting.prompt, plan)
            fed = FedAdapter(adapter.slot, vocabulary.edge_offset, adapter.references)
        row = self.rows.take(waiting.prompt, 0 if adapter is None else adapter.serial, room=question.room_wanted)
        if row is None:
            return None
        question.sit(row)
        if adapter is not None:
            adapter.users += 1
        return _Live(waiting, question, adapter, fed)

    def _leave(self, lane: _Lane, live: _Live, error: Exception | None) -> None:
        lane.live.remove(live)
        question = live.question
        if question.row is not None:
            self.rows.give_back(question.row)
            question.row = None
        if live.adapter is not None:
            live.adapter.users -= 1
        if isinstance(question, Question):
            if error is None:
                question.finish()
            else:
                question.release()
        _settle(live.waiting.future, live.waiting.finish(question) if error is None else error)

    def _drop_given_up(self, lane: _Lane) -> None:
        now = time.monotonic()
        for live in list(lane.live):
            deadline = live.waiting.deadline
            if live.waiting.future.cancelled() or (deadline is not None and now > deadline):
                self._leave(lane, live, _too_late())

    def _install_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._installs:
                    return
                read, future = self._installs[0]
            is_busy = any(lane.live or lane.flight for lane in self._lanes)
            try:
                if self.shelf.needs_growth(read.shape):
                    if is_busy:
                        return
                    self.shelf.grow(read.shape)
                adapter = self.shelf.install(read)
            except Exception as error:
                with self._lock:
                    self._installs.popleft()
                _settle(future, error)
                continue
            if adapter is None:
                return
            with self._lock:
                self._installs.popleft()
            _settle(future, adapter)

    def _blocks_admission(self) -> bool:
        """A larger adapter than the slots hold waits for the questions under way to leave."""
        return self.shelf.needs_growth(self._installs[0][0].shape)

    def _waiting_count(self) -> int:
        with self._lock:
            return sum(map(len, self._waiting.values()))


def _settle(future: "Future[Any]", outcome: object) -> None:
    """Gives a future its outcome; one that was cancelled meanwhile stays so."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("The question's deadline passed before it was answered. Ask again, or allow more time.")
