"""The engine's room in the answerer: one thread that owns the model, and the adapters fetched for it."""

import asyncio
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import structlog

from app.answers.backend import AnswererUnavailable, Overloaded
from app.blobs.keys import adapter_key
from app.blobs.store import BlobStore
from app.errors import AppError
from app.ml.codes import AnswerMode
from app.ml.engine.answering import AnswerEngine, EngineAnswer
from app.ml.engine.device import choose_dtype, device_facts, pick_device, use_threads
from app.ml.engine.loading import load_base_model
from app.ml.errors import AdapterMismatch
from app.ml.model_store import ModelStore

_log = structlog.get_logger()


class EngineRoom:
    """Loads the base model in the background and answers one request at a time, in order of arrival."""

    def __init__(self, store: ModelStore, blobs: BlobStore, *, base_model: str, max_pending: int, threads: int | None) -> None:
        self._store = store
        self._blobs = blobs
        self._base_model = base_model
        self._max_pending = max_pending
        self._threads = threads
        self._pending = 0
        self._engine: AnswerEngine | None = None
        self._failure: str | None = None
        self._device: dict[str, object] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def base_model(self) -> str:
        """Name of the base model that this process holds."""
        return self._base_model

    @property
    def device(self) -> dict[str, object] | None:
        """The device's facts, once the model is in memory."""
        return self._device

    def missing(self) -> tuple[str, str] | None:
        """Returns None when ready, else (`loading` or `failed`, what to do)."""
        if self._engine is not None:
            return None
        if self._failure is not None:
            return "failed", self._failure
        return "loading", f"Base model {self._base_model!r} is being loaded. Try again in a moment."

    def start_loading(self) -> None:
        """Begins to load the base model; questions wait for nothing meanwhile, they are refused."""
        self._thread.submit(self._load)

    async def answer(
        self,
        questions: Sequence[str],
        *,
        base_model: str,
        checksum: str | None,
        alternatives: int,
        mode: AnswerMode = "closed",
        precision: float | None = None,
        deadline_s: float | None = None,
    ) -> list[EngineAnswer]:
        """Answers questions after those that came before.

        Raises:
            AnswererUnavailable: still loading, or the load failed.
            Overloaded: too many questions wait.
            AdapterMismatch: another base model is asked for, or the adapter is not in the blob store.
        """
        if (missing := self.missing()) is not None:
            raise AnswererUnavailable(missing[1])
        if base_model != self._base_model:
            raise AdapterMismatch(
                f"This answerer holds base model {self._base_model!r}, not {base_model!r}. Set DIANDA_BASE_MODEL and restart "
                "it, or run a second answerer.",
                param="model",
            )
        if self._pending + len(questions) > self._max_pending:
            raise Overloaded(f"More than {self._max_pending} questions wait. Try again in a moment.")
        self._pending += len(questions)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._answer, tuple(questions), checksum, alternatives, mode, precision
            )
        finally:
            self._pending -= len(questions)

    def close(self) -> None:
        """Ends the thread after the questions that it works on."""
        self._thread.shutdown(cancel_futures=True)

    def _load(self) -> None:
        try:
            use_threads(self._threads)
            device = pick_device()
            base = load_base_model(self._store.get(self._base_model), device=device, dtype=choose_dtype(device, "auto"))
            self._device = asdict(device_facts(device)) | {"precision": base.precision}
            self._engine = AnswerEngine(base)
            _log.info("base_model_loaded", base_model=self._base_model, **self._device)
        except AppError as error:
            self._failure = error.message
            _log.error("base_model_failed", base_model=self._base_model, message=error.message)
        except Exception as error:
            self._failure = f"Base model {self._base_model!r} could not be loaded: {type(error).__name__}. The log says why."
            _log.exception("base_model_failed", base_model=self._base_model)

    def _answer(
        self, questions: Sequence[str], checksum: str | None, alternatives: int, mode: AnswerMode, precision: float | None
    ) -> list[EngineAnswer]:
        engine = self._engine
        assert engine is not None
        if checksum is not None and not engine.holds(checksum):
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    folder = self._blobs.fetch(adapter_key(checksum), Path(scratch))
                except FileNotFoundError as error:
                    raise AdapterMismatch(
                        "The adapter's files are not in the blob store that this answerer reads. Check that api and "
                        "answerer share DIANDA_DATA_DIR.",
                        param="model",
                    ) from error
                engine.load(checksum, folder)
            _log.info("adapter_loaded", checksum=checksum)
        return engine.answer(questions, checksum=checksum, alternatives=alternatives, mode=mode, precision=precision)
