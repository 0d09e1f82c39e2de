"""The product's answer engine as a contestant."""

from collections.abc import Sequence

from app.ml.engine.answering import AnswerEngine
from app.ml.engine.asks import Ask, EngineAnswer
from bench.answer.contestant import Codes, Task


class Ours:
    """One engine, asked with one of its adapters or with several in turn."""

    def __init__(self, engine: AnswerEngine, *checksums: str) -> None:
        self._engine = engine
        self._checksums = checksums
        self.last: list[EngineAnswer] = []
        """What the last call gave, for passes and confidences."""

    def answer(self, tasks: Sequence[Task]) -> list[Codes]:
        """Answers all tasks in one call; task n with adapter n modulo their number."""
        if len(self._checksums) == 1 and all(task.follow is None for task in tasks):
            self.last = self._engine.answer([task.question for task in tasks], checksum=self._checksums[0])
        else:
            asks = [
                Ask(task.question, self._checksums[number % len(self._checksums)], follow=task.follow)
                for number, task in enumerate(tasks)
            ]
            self.last = self._engine.answer_mixed(asks)
        return [answer.best.codes for answer in self.last]
