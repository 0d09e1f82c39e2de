"""The engine's room in the answerer: one thread that owns the engine, and others that fetch adapters for it."""

import asyncio
import gc
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import structlog

from app.answerer.suspensions import Suspensions
from app.answers.backend import AnswererUnavailable, Overloaded, ServingPaused
from app.blobs.keys import adapter_key
from app.blobs.store import BlobStore
from app.errors import AppError
from app.fault_points import reach
from app.ml.codes import AnswerMode, DecideBy
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.asks import Ask, EngineAnswer
from app.ml.engine.device import choose_dtype, cpu_device, device_facts, empty_cache, limit_memory, pick_device, use_threads
from app.ml.engine.loading import load_base_model
from app.ml.engine.self_test import check_device
from app.ml.errors import AdapterMismatch, BaseModelMissing
from app.ml.model_store import ModelStore

_log = structlog.get_logger()
_LOADERS = 2
_EVICTED_TRIES = 3
_SMOOTHING = 0.1
_TRIED_AGAIN_EVERY_S = 3.0
_LEASES_LOOKED_AT_EVERY_S = 0.5
_POLLED_EVERY_S = 0.02
# Questions that came before the pause are answered, if that takes no longer.
_DRAINED_WITHIN_S = 10.0
_PAUSED = "A job has the card: answers pause until it ends. Ask again then."
_ON_CPU = "A job has the card: answers come from the CPU until it ends, and slower."


class EngineRoom:
    """Loads the base model in the background; then questions of all callers and adapters share the engine's passes."""

    def __init__(
        self,
        store: ModelStore,
        blobs: BlobStore,
        *,
        base_model: str,
        max_pending: int,
        threads: int | None,
        adapter_gib: float | None = None,
        memory_limit_gib: float | None = None,
        card_share: float | None = None,
        answers_on_cpu: bool = False,
    ) -> None:
        """`answers_on_cpu`: whether questions during a pause are answered there; else they are refused."""
        self._store, self._blobs = store, blobs
        self._base_model = base_model
        self._max_pending = max_pending
        self._threads, self._adapter_gib = threads, adapter_gib
        self._memory_limit_gib, self._card_share = memory_limit_gib, card_share
        self._answers_on_cpu = answers_on_cpu
        self._pending = 0
        self._engine: AnswerEngine | None = None
        # The engine that questions may still be given to, while it answers the last ones before a pause.
        self._open: AnswerEngine | None = None
        self._door = threading.Lock()
        self._suspensions = Suspensions()
        self._holds_card = False
        self._has_loaded = False
        self._failure: str | None = None
        self._tries_again = False
        self._device: dict[str, object] | None = None
        self._wake = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="adapters")
        self._loading: dict[str, asyncio.Future[None]] = {}
        self._pace = _Pace()

    @property
    def base_model(self) -> str:
        """Name of the base model that this process holds."""
        return self._base_model

    @property
    def device(self) -> dict[str, object] | None:
        """The device's facts, once the model is in memory."""
        return self._device

    def missing(self) -> tuple[str, str] | None:
        """Returns None when ready, else (`loading`, `suspended` or `failed`, what to do)."""
        if self._failure is not None:
            return "failed", self._failure
        if self._engine is not None:
            return None
        if self._suspensions.in_force and not self._answers_on_cpu:
            return "suspended", _PAUSED
        return "loading", f"Base model {self._base_model!r} is being loaded. Try again in a moment."

    @property
    def pause(self) -> str | None:
        """What a pause means to askers; None while there is none."""
        if not self._suspensions.in_force:
            return None
        return _ON_CPU if self._answers_on_cpu else _PAUSED

    async def suspend(self, holder: str, *, lease_s: float, wait_s: float) -> bool:
        """Leaves the card until `resume`, or until the lease ends; renews the lease of a holder that has one.

        Returns whether the card is free, at the latest after `wait_s`.
        """
        if not self._suspensions.in_force:
            _log.info("serving_paused", holder=holder)
        self._suspensions.hold(holder, lease_s=lease_s)
        self._wake.set()
        deadline = time.monotonic() + wait_s
        while self._holds_card and time.monotonic() < deadline:
            await asyncio.sleep(_POLLED_EVERY_S)
        return not self._holds_card

    def resume(self, holder: str) -> None:
        """Ends a holder's pause; once nobody holds one, the base model comes back to the card."""
        self._suspensions.release(holder)
        self._wake.set()

    def start_loading(self) -> None:
        """Begins to load the base model; questions wait for nothing meanwhile, they are refused."""
        self._thread.start()

    async def answer(
        self,
        questions: Sequence[str],
        *,
        base_model: str,
        checksum: str | None,
        alternatives: int,
        mode: AnswerMode = "closed",
        precision: float | None = None,
        decide_by: DecideBy = "answer",
        deadline_s: float | None = None,
    ) -> list[EngineAnswer]:
        """Answers questions beside those of other callers; cancelling it takes them out again.

        Raises:
            AnswererUnavailable: still loading, or the load failed.
            ServingPaused: a job has the card.
            Overloaded: too many questions wait, or so many that the deadline would pass.
            AdapterMismatch: another base model is asked for, or the adapter is not in the blob store.
        """
        if (missing := self.missing()) is not None:
            raise (ServingPaused if missing[0] == "suspended" else AnswererUnavailable)(missing[1])
        if base_model != self._base_model:
            raise AdapterMismatch(
                f"This answerer holds base model {self._base_model!r}, not {base_model!r}. Set DIANDA_BASE_MODEL and restart "
                "it, or run a second answerer.",
                param="model",
            )
        if self._pending + len(questions) > self._max_pending:
            raise Overloaded(f"More than {self._max_pending} questions wait. Try again in a moment.")
        if deadline_s is not None and self._pace.expected_s(self._pending + len(questions)) > deadline_s:
            raise Overloaded("The questions that wait would take longer than this one may. Try again in a moment.")
        self._pending += len(questions)
        try:
            deadline = None if deadline_s is None else time.monotonic() + deadline_s
            asks = [Ask(question, checksum, alternatives, mode, precision, decide_by) for question in questions]
            return await self._answer(asks, checksum, deadline)
        finally:
            self._pending -= len(questions)

    def close(self) -> None:
        """Ends the threads after the questions that they work on."""
        self._is_closing = True
        self._wake.set()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    async def _answer(self, asks: Sequence[Ask], checksum: str | None, deadline: float | None) -> list[EngineAnswer]:
        engine = self._engine
        assert engine is not None
        for _ in range(_EVICTED_TRIES):
            if checksum is not None and not engine.holds(checksum):
                await self._load_adapter(engine, checksum)
            try:
                with self._door:
                    self._check_open(engine)
                    futures = [asyncio.wrap_future(engine.submit(ask, deadline=deadline)) for ask in asks]
                for future in futures:
                    future.add_done_callback(lambda _: self._pace.note(self._pending))
                return list(await asyncio.gather(*futures))
            except KeyError:
                # Others' adapters took its place between two steps.
                continue
        raise Overloaded("More adapters are asked for at once than fit into memory. Try again in a moment.")

    async def _load_adapter(self, engine: AnswerEngine, checksum: str) -> None:
        """Fetches and loads an adapter once, however many wait for it."""
        with self._door:
            self._check_open(engine)
            running = self._loading.get(checksum)
            if running is None:
                loop = asyncio.get_running_loop()
                running = self._loading[checksum] = loop.run_in_executor(self._loaders, self._fetch_and_load, engine, checksum)
                running.add_done_callback(lambda _: self._loading.pop(checksum, None))
        # A caller that goes away must not take the others' adapter with it.
        await asyncio.shield(running)

    def _check_open(self, engine: AnswerEngine) -> None:
        if self._open is not engine:
            raise ServingPaused(_PAUSED)

    def _fetch_and_load(self, engine: AnswerEngine, checksum: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                folder = self._blobs.fetch(adapter_key(checksum), Path(scratch))
            except FileNotFoundError as error:
                raise AdapterMismatch(
                    "The adapter's files are not in the blob store that this answerer reads. Check that api and "
                    "answerer share DIANDA_DATA_DIR, or DIANDA_BLOBS_URL.",
                    param="model",
                ) from error
            reach("before_adapter_loaded")
            engine.load(checksum, folder)
        _log.info("adapter_loaded", checksum=checksum)

    def _run(self) -> None:
        while not self._is_closing:
            is_paused = self._suspensions.in_force
            if is_paused and not self._answers_on_cpu:
                self._rest(_LEASES_LOOKED_AT_EVERY_S)
                continue
            engine = self._load(on_cpu=is_paused)
            if engine is None:
                if not self._tries_again:
                    return
                self._wait_for_another_try()
                continue
            if not self._serve(engine, is_paused=is_paused):
                return
            self._empty(engine)
            device = engine.base.device
            del engine
            # What was frozen when it was loaded is looked at again: an engine has cycles.
            gc.unfreeze()
            gc.collect()
            empty_cache(device)
            self._holds_card = False

    def _serve(self, engine: AnswerEngine, *, is_paused: bool) -> bool:
        """Works until a pause begins or ends; False when the room closes, or the engine has failed."""
        while not self._is_closing or engine.has_work:
            if self._suspensions.in_force is not is_paused:
                return True
            try:
                if engine.has_work:
                    engine.step()
                elif not engine.prepare():
                    # A lease ends without a call.
                    self._rest(_LEASES_LOOKED_AT_EVERY_S if is_paused else None)
            except Exception as error:
                # The device is in a state that nothing is known of: only a new process helps.
                self._failure = "The answer engine failed and needs a restart. The answerer's log says why."
                _log.exception("engine_failed")
                engine.give_up(AnswererUnavailable(self._failure))
                if not isinstance(error, AppError):
                    return False
        return False

    def _empty(self, engine: AnswerEngine) -> None:
        """Answers what an engine was asked already, then lets go of it."""
        self._engine = None
        deadline = time.monotonic() + _DRAINED_WITHIN_S
        try:
            while self._loading or (self._pending and time.monotonic() < deadline):
                if engine.has_work:
                    engine.step()
                else:
                    self._rest(_POLLED_EVERY_S)
        except Exception:
            _log.exception("engine_failed")
        with self._door:
            self._open = None
        engine.give_up(ServingPaused(_PAUSED))
        _log.info("card_left", base_model=self._base_model)

    def _rest(self, longest_s: float | None) -> None:
        self._wake.wait(longest_s)
        self._wake.clear()

    def _wait_for_another_try(self) -> None:
        """Waits until the weights may be there, or the card free again."""
        self._rest(_TRIED_AGAIN_EVERY_S)
        while not self._is_closing and self._store.find(self._base_model) is None:
            self._rest(_TRIED_AGAIN_EVERY_S)
        self._failure = None

    def _load(self, *, on_cpu: bool) -> AnswerEngine | None:
        try:
            use_threads(self._threads)
            device = cpu_device() if on_cpu else pick_device()
            self._holds_card = not on_cpu
            if not on_cpu:
                limit_memory(device, self._memory_limit_gib, card_share=self._card_share)
            self._pace = _Pace()
            if device.type != "cpu":
                check_device(device)
            base = load_base_model(self._store.get(self._base_model), device=device, dtype=choose_dtype(device, "auto"))
            engine = AnswerEngine(base, adapter_gib=self._adapter_gib)
            engine.on_work = self._wake.set
            self._device = asdict(device_facts(device)) | {"precision": base.precision}
            self._engine = self._open = engine
            self._has_loaded = True
            # What is there now stays for ever, or until a pause: the garbage collector need not look at it again and again.
            gc.freeze()
            _log.info("base_model_loaded", base_model=self._base_model, **self._device)
            return engine
        except AppError as error:
            self._failure = error.message
            # An operator brings them in while everything runs, and need not know whom to start again.
            self._tries_again = self._has_loaded or isinstance(error, BaseModelMissing)
            _log.error("base_model_failed", base_model=self._base_model, message=error.message)
        except Exception as error:
            self._failure = f"Base model {self._base_model!r} could not be loaded: {type(error).__name__}. The log says why."
            # After a pause somebody else may have taken the card's memory, and may give it back.
            self._tries_again = self._has_loaded
            _log.exception("base_model_failed", base_model=self._base_model)
        self._holds_card = False
        return None


class _Pace:
    """How fast answers leave while questions wait."""

    def __init__(self) -> None:
        self._seconds_an_answer: float | None = None
        self._last: float | None = None

    def note(self, pending: int) -> None:
        """An answer has left; `pending` still wait."""
        now = time.monotonic()
        if self._last is not None:
            taken = now - self._last
            known = self._seconds_an_answer
            self._seconds_an_answer = taken if known is None else known + _SMOOTHING * (taken - known)
        # Idle time is no measure of the engine.
        self._last = now if pending > 1 else None

    def expected_s(self, questions: int) -> float:
        """Returns how long so many questions will take; 0 while nothing is known."""
        return 0.0 if self._seconds_an_answer is None else questions * self._seconds_an_answer
