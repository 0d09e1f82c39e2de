"""The product's answer engine as a contestant."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from app.ml.engine.answering import AnswerEngine, EngineAnswer
from bench.answer.contestant import Codes, Task


class Ours:
    """One engine, asked with one of its adapters or with several in turn."""

    def __init__(self, engine: AnswerEngine, *checksums: str) -> None:
        self._engine: Any = engine
        self._checksums = checksums
        self._ask = _find_ask()
        self.last: list[EngineAnswer] = []
        """What the last call gave, for passes and confidences."""

    def answer(self, tasks: Sequence[Task]) -> list[Codes]:
        """Answers all tasks in one call; task n with adapter n modulo their number."""
        if len(self._checksums) == 1 and all(task.follow is None for task in tasks):
            self.last = self._engine.answer([task.question for task in tasks], checksum=self._checksums[0])
        else:
            asks = [
                self._ask(task.question, self._checksums[number % len(self._checksums)], follow=task.follow)
                for number, task in enumerate(tasks)
            ]
            self.last = self._engine.answer_mixed(asks)
        return [answer.best.codes for answer in self.last]


def why_no_mixed_answers(engine: AnswerEngine) -> str | None:
    """Says why this engine can neither follow recorded answers nor mix adapters; None where it can."""
    if hasattr(engine, "answer_mixed") and _find_ask() is not None:
        return None
    return "this engine has no answer_mixed yet, so it can neither follow recorded answers nor mix adapters"


def _find_ask() -> Any:
    """Returns the engine's class of one question among several adapters', or None where it has none."""
    for module in ("app.ml.engine.asks", "app.ml.engine.answering"):
        if importlib.util.find_spec(module) is not None and (found := getattr(importlib.import_module(module), "Ask", None)):
            return found
    return None
