"""What is answered by which weights: real ones that were tuned, or random ones that walk recorded answers."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.ml.codes import AnswerGrammar
from app.ml.engine.loading import LoadedModel
from app.ml.prompting import PromptRenderer
from app.ml.tokens import FileTokenizer, load_tokenizer
from bench.answer.adapters import LARGE_SPEC, SMALL_SPEC, PreparedAdapter, random_adapters, trained_adapter
from bench.answer.contestant import Task
from bench.answer.peers import Asking
from bench.answer.questions import data_files, read_alpaca
from bench.answer.trace import Trace
from bench.train.workload import Workload


@dataclass(frozen=True)
class Setting:
    """One base model, its adapters and its tasks."""

    name: str
    """`real` or `replayed`."""
    workload: Workload
    adapters: tuple[PreparedAdapter, ...]
    tokenizer: FileTokenizer
    renderer: PromptRenderer
    grammar: AnswerGrammar
    tasks: tuple[Task, ...]
    max_new_tokens: int

    def build(self) -> LoadedModel:
        """Returns the base model anew, for a contestant that shares it with none."""
        return build_with_tokenizer(self.workload, self.tokenizer)

    def asking(self) -> Asking:
        """Returns what a peer knows."""
        return Asking(self.renderer, self.tokenizer, self.grammar, self.workload.device, self.max_new_tokens)

    def stream(self, count: int) -> list[Task]:
        """Returns tasks again and again, as many as wanted."""
        return list(itertools.islice(itertools.cycle(self.tasks), count))


def build_with_tokenizer(workload: Workload, tokenizer: FileTokenizer) -> LoadedModel:
    """Builds a workload's network with a real tokenizer, where its own only stands in for one.

    Raises:
        ValueError: the tokenizer has ids that the network has no embedding for.
    """
    base = replace(workload.build(workload.dtype), tokenizer=tokenizer)
    highest = max(tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id or 0)
    if highest >= base.network.config.vocab_size:
        raise ValueError(f"the tokenizer's ids do not fit into {workload.model}")
    return base


def real_setting(workload: Workload, data: Path | None, cache: Path, questions: int | None) -> Setting:
    """Tunes the base model once (or finds the cached adapter) and takes the test file's rows."""
    train_file, test_file = data_files(data)
    tokenizer = load_tokenizer(workload.store / workload.model)
    spec = SMALL_SPEC if data is None else LARGE_SPEC
    adapter = trained_adapter(build_with_tokenizer(workload, tokenizer), train_file, spec, cache)
    card = adapter.card
    grammar = AnswerGrammar(card.vocabulary, tokenizer.encode, end_id=tokenizer.eos_id)
    tasks = tuple(Task(example.question, expected=example.codes) for example in read_alpaca(test_file)[:questions])
    longest = _longest_answer(grammar, [example.codes for example in read_alpaca(train_file)])
    return Setting("real", workload, (adapter,), tokenizer, card.renderer, grammar, tasks, longest)


def replayed_setting(workload: Workload, trace: Trace, adapters: int, folder: Path, questions: int | None) -> Setting:
    """Makes random adapters and takes the trace's rows.

    Raises:
        ValueError: a code or a question has tokens that the shapes have no embedding for.
    """
    tokenizer = load_tokenizer(workload.store / trace.model)
    base = build_with_tokenizer(workload, tokenizer)
    grammar = AnswerGrammar(trace.vocabulary, tokenizer.encode, end_id=tokenizer.eos_id)
    rows = trace.rows[:questions]
    highest = max(max(trace.renderer.encode(row.question, tokenizer) + grammar.encode_answer(row.codes)) for row in rows)
    if highest >= base.network.config.vocab_size:
        raise ValueError(f"token {highest} of the trace does not fit into {workload.model}")
    made = tuple(random_adapters(base, trace, adapters, folder))
    tasks = tuple(Task(row.question, follow=row.codes, recorded_passes=row.passes) for row in rows)
    longest = _longest_answer(grammar, [row.codes for row in rows])
    return Setting("replayed", workload, made, tokenizer, trace.renderer, grammar, tasks, longest)


def _longest_answer(grammar: AnswerGrammar, answers: Sequence[tuple[str, ...]]) -> int:
    return max(len(grammar.encode_answer(codes)) for codes in answers)
