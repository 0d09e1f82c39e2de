"""The answerer's engine in a process of its own: asks one question after the other, and notes when each was answered."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from app.ml.codes import CodeVocabulary
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.asks import Ask
from app.ml.engine.device import limit_memory, peak_memory_bytes, synchronize, use_threads
from app.ml.engine.loading import LoadedModel
from app.ml.prompting import PromptRenderer
from app.ml.tokens import load_tokenizer
from bench.answer.adapters import random_adapters
from bench.answer.questions import data_files, read_alpaca
from bench.answer.setting import build_with_tokenizer
from bench.answer.trace import Trace
from bench.train.workload import Workload


@dataclass(frozen=True)
class Answered:
    """When questions were answered, on the clock that all processes of a host share, and the memory that it took."""

    times: list[tuple[float, float]]
    """Asked at, and seconds until the answer."""
    peak_bytes: int | None


class Asker:
    """An engine with one adapter of random factors, whose answers walk the true codes of the sample's rows.

    Weights and factors are random where the shapes are, so what is answered means nothing; the work is the real one.
    """

    def __init__(self, workload: Workload, *, tokenizer_of: Path, gib: float | None, scratch: Path) -> None:
        """Loads, installs the adapter and makes everything ready that questions would else wait for."""
        use_threads(None)
        limit_memory(workload.device, gib)
        self._workload = workload
        examples = read_alpaca(data_files(None)[0])
        tokenizer = load_tokenizer(tokenizer_of)

        def build() -> LoadedModel:
            return build_with_tokenizer(workload, tokenizer)

        vocabulary = CodeVocabulary.from_answers(example.codes for example in examples)
        trace = Trace(workload.model, "", PromptRenderer("plain"), vocabulary, ())
        (adapter,) = random_adapters(build(), trace, 1, scratch)
        self._engine = AnswerEngine(build())
        self._engine.load(adapter.checksum, adapter.folder)
        self._engine.warm_up()
        self._asks = [Ask(example.question, adapter.checksum, follow=example.codes) for example in examples]
        self.ask_for(3.0, per_s=None)

    def ask_for(self, seconds: float, *, per_s: float | None) -> Answered:
        """Asks for so long: at random moments, so many a second on average, or without a pause for None."""
        generator, times, place = random.Random(0), list[tuple[float, float]](), 0
        end = time.monotonic() + seconds
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            if now < due:
                time.sleep(min(due, end) - now)
                continue
            # A question that came while another was answered has waited since then.
            asked = now if per_s is None else due
            self._engine.answer_mixed([self._asks[place % len(self._asks)]])
            synchronize(self._workload.device)
            times.append((asked, time.monotonic() - asked))
            place += 1
            if per_s is not None:
                due += generator.expovariate(per_s)
        return Answered(times, peak_memory_bytes(self._workload.device))
