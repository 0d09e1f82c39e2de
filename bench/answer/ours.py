"""The product's answer engine as a contestant."""

from collections.abc import Sequence
from typing import Any

from app.ml.engine import answering
from app.ml.engine.answering import AnswerEngine, EngineAnswer
from bench.answer.contestant import Codes, Task


class Ours:
    """One engine, asked with one of its adapters or with several in turn."""

    def __init__(self, engine: AnswerEngine, *checksums: str) -> None:
        self._engine: Any = engine
        self._checksums = checksums
        self.last: list[EngineAnswer] = []
        """What the last call gave, for passes and confidences."""

    def answer(self, tasks: Sequence[Task]) -> list[Codes]:
        """Answers all tasks in one call; task n with adapter n modulo their number."""
        if len(self._checksums) == 1 and all(task.follow is None for task in tasks):
            self.last = self._engine.answer([task.question for task in tasks], checksum=self._checksums[0])
        else:
            asks = [
                answering.Ask(task.question, self._checksums[number % len(self._checksums)], follow=task.follow)  # type: ignore[attr-defined]
                for number, task in enumerate(tasks)
            ]
            self.last = self._engine.answer_mixed(asks)
        return [answer.best.codes for answer in self.last]


def why_no_mixed_answers(engine: AnswerEngine) -> str | None:
    """Says why this engine can neither follow recorded answers nor mix adapters; None where it can."""
    if hasattr(engine, "answer_mixed") and hasattr(answering, "Ask"):
        return None
    return "this engine has no answer_mixed yet, so it can neither follow recorded answers nor mix adapters"
