"""Questions that stand in a file more than once, or in another file too. Digests on disk, so a million rows stay flat."""

import heapq
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

from app.ml.formats.example import Example
from app.ml.formats.spilling import SpilledRecords

_ROW = struct.Struct(">16s8sQ")  # question, answer, row
_OTHER = struct.Struct(">16sQ")  # question, row
_ANSWER_BYTES = 16
_Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Repetition:
    """What was found; pairs are `(row, the other row)`, the first by row."""

    duplicate_questions: int
    conflicting_questions: int
    conflicting_rows: _Pairs
    distinct_answers: int
    leaked_rows: int
    """Rows whose question also stands in the other file."""
    leaked_pairs: _Pairs


class RepetitionFinder:
    """Collects rows and compares them at the end; a context manager."""

    def __init__(self, folder: Path, *, max_listed: int) -> None:
        """`folder` gets nameless temporary files."""
        self._stack = ExitStack()
        self._rows, self._answers, self._others = (self._stack.enter_context(SpilledRecords(folder)) for _ in range(3))
        self._max_listed = max_listed

    def add(self, example: Example) -> None:
        """Adds a row of the file."""
        answer = "|".join(sorted(example.codes))
        self._rows.add(_ROW.pack(_digest(example.question), _digest(answer)[:8], example.row))
        self._answers.add(_digest("|".join(example.codes)))

    def add_others(self, examples: Iterable[Example]) -> None:
        """Adds the rows of the file that none of these questions should stand in."""
        for example in examples:
            self._others.add(_OTHER.pack(_digest(example.question), example.row))

    def find(self) -> Repetition:
        """Compares all rows, one part of the digests after the other."""
        duplicates = conflicting = leaked = 0
        conflicts: _Pairs = []
        leaks: _Pairs = []
        for number, group in enumerate(self._rows.groups()):
            others: dict[bytes, int] = {}
            for question, row in _OTHER.iter_unpack(self._others.group(number)):
                others.setdefault(question, row)
            first: dict[bytes, tuple[bytes, int]] = {}
            in_conflict: set[bytes] = set()
            new_conflicts: _Pairs = []
            new_leaks: _Pairs = []
            for question, answer, row in _ROW.iter_unpack(group):
                if question in others:
                    new_leaks.append((row, others[question]))
                known = first.setdefault(question, (answer, row))
                if known[1] == row:
                    continue
                duplicates += 1
                if known[0] != answer:
                    in_conflict.add(question)
                    new_conflicts.append((row, known[1]))
            conflicting += len(in_conflict)
            leaked += len(new_leaks)
            conflicts = heapq.nsmallest(self._max_listed, [*conflicts, *new_conflicts])
            leaks = heapq.nsmallest(self._max_listed, [*leaks, *new_leaks])
        return Repetition(duplicates, conflicting, conflicts, self._distinct_answers(), leaked, leaks)

    def __enter__(self) -> "RepetitionFinder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()

    def _distinct_answers(self) -> int:
        return sum(len(set(_cut(group, _ANSWER_BYTES))) for group in self._answers.groups())


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
