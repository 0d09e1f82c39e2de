"""What every contestant is given, and what it must do with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Codes = tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One question."""

    question: str
    expected: Codes | None = None
    """The true codes, where an answer can be right."""
    follow: Codes | None = None
    """A recorded answer, where weights are random: ours walks its tokens, a peer makes as many."""
    recorded_passes: int | None = None


@dataclass(frozen=True)
class Contestant:
    """A way to answer. Everything from a question's text to its codes is timed."""

    name: str
    answer: Callable[[Sequence[Task]], list[Codes]]
    """All tasks at once; a call with one of them is what latency is measured by."""
    batches: tuple[int, ...] = ()
    """How many tasks a call has where throughput is measured; none: all at once."""
    warm_up: Callable[[Sequence[Task]], None] | None = None
    """Compiles and allocates; not timed. None: a task and a batch are answered once."""
    facts: Callable[[], dict[str, object]] = dict
    """What the report tells beside the times, asked after the last round."""


@dataclass
class Times:
    """What was measured of one contestant."""

    seconds: list[list[float]] = field(default_factory=list)
    """Of every task alone: a list a round."""
    rates: dict[int, list[float]] = field(default_factory=dict)
    """Answers a second by tasks a call: a number a round."""
    given: dict[str, Codes] = field(default_factory=dict)
    """By question, of the last round."""
    error: str | None = None
    """Why it takes part no longer."""


def spread(tasks: Sequence[Task], count: int) -> list[Task]:
    """Returns at most `count` tasks, evenly spread: files are often sorted by category."""
    if count >= len(tasks):
        return list(tasks)
    return [tasks[number * len(tasks) // count] for number in range(count)]
