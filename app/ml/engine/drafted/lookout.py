"""A thread beside the engine's, which looks up what the training questions say of those that wait."""

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from app.ml.engine.asks import Ask
from app.ml.engine.code_shares import CodeShares
from app.ml.engine.drafted.adapters import AdapterShelf
from app.ml.engine.drafted.recall import Likely

_FEWEST, _MOST = 16, 256


class Waiting(Protocol):
    """A question that waits for its first pass."""

    likely: Likely | None
    shares: CodeShares | None

    @property
    def keeps_steps(self) -> bool:
        """Says whether it is observed rather than answered."""
        ...

    @property
    def ask(self) -> Ask:
        """What is asked."""
        ...


class Lookout:
    """Looks while the engine prepares passes: retrieval leaves the interpreter's lock free."""

    def __init__(self, shelf: AdapterShelf) -> None:
        """Starts no thread before many wait."""
        self._shelf = shelf
        self._thread: ThreadPoolExecutor | None = None
        self._looking: Future[None] | None = None

    def look(self, waiting: Iterable[Waiting]) -> None:
        """Sends the thread out for the first questions of many; does nothing while it is out, or few wait."""
        if self._looking is not None and not self._looking.done():
            return
        first = list(itertools.islice(waiting, _MOST))
        if len(first) < _FEWEST:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookout")
        self._looking = self._thread.submit(self._recall, first)

    def _recall(self, waiting: Sequence[Waiting]) -> None:
        for one in waiting:
            adapter = None if one.ask.checksum is None else self._shelf.loaded.get(one.ask.checksum)
            if adapter is not None and one.likely is None and one.ask.mode != "free":
                one.likely = adapter.likely(one.ask.question)
                if not one.keeps_steps:
                    one.shares = adapter.shares(one.ask.question, one.ask.mode, factor=adapter.inverse_temperature)
