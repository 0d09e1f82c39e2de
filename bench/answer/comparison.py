"""Rounds in which contestants take turns: every question alone, then all of them in batches."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.answer.contestant import Contestant, Task, Times


@dataclass(frozen=True)
class Load:
    """What is asked of whom in a round."""

    tasks: Sequence[Task]
    """Ours answers all of them alone."""
    peer_tasks: Sequence[Task]
    """Of `tasks`: those that the slower contestants answer too, and by which they are compared."""
    stream: Sequence[Task]
    """For our throughput, all in one call."""
    peer_stream: Sequence[Task]
    """For the others' throughput, a batch a call."""


def compare(contestants: Sequence[Contestant], load: Load, rounds: int) -> dict[str, Times]:
    """Measures all contestants in turn, each round beginning with another; one that fails is out, with its reason kept."""
    times = {contestant.name: Times() for contestant in contestants}
    for contestant in contestants:
        _guarded(contestant, times[contestant.name], lambda one: _warm_up(one, load))
    for number in range(rounds):
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            measured = times[contestant.name]
            started = time.perf_counter()
            _guarded(contestant, measured, lambda one: _round(one, times[one.name], load))
            if measured.error is None:
                print(f"round {number + 1}: {contestant.name}, {time.perf_counter() - started:.0f} s", flush=True)
    return times


def _guarded(contestant: Contestant, times: Times, do: Callable[[Contestant], None]) -> None:
    if times.error is not None:
        return
    try:
        do(contestant)
    except Exception as error:
        if contestant.name == "ours":
            raise
        # A peer that fails, as compiled ones may, is told and not hidden; the others go on.
        times.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
        print(f"{contestant.name} failed: {times.error}", flush=True)


def _warm_up(contestant: Contestant, load: Load) -> None:
    if contestant.warm_up is not None:
        contestant.warm_up([*load.peer_tasks, *load.peer_stream])
        return
    for task in load.peer_tasks[:2]:
        contestant.answer([task])
    for size in contestant.batches or (len(load.stream),):
        contestant.answer(_stream(contestant, load)[:size])


def _round(contestant: Contestant, times: Times, load: Load) -> None:
    seconds = []
    for task in load.tasks if contestant.name == "ours" else load.peer_tasks:
        started = time.perf_counter()
        (codes,) = contestant.answer([task])
        seconds.append(time.perf_counter() - started)
        times.given[task.question] = codes
    times.seconds.append(seconds)
    stream = _stream(contestant, load)
    for size in contestant.batches or (len(stream),):
        tasks = stream[: max(1, len(stream) // size) * size]
        started = time.perf_counter()
        for start in range(0, len(tasks), size):
            contestant.answer(tasks[start : start + size])
        times.rates.setdefault(size, []).append(len(tasks) / (time.perf_counter() - started))


def _stream(contestant: Contestant, load: Load) -> Sequence[Task]:
    return load.peer_stream if contestant.batches else load.stream
