"""Fixed-size records grouped by their first byte, in memory while they are few and on disk beyond: memory stays flat."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

_GROUPS = 64
_BYTES_IN_MEMORY = 4 * 1024 * 1024


class SpilledRecords:
    """Records whose first byte is evenly spread (digests), so that each group holds 1/64 of them; a context manager."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets a nameless temporary file once the records need it."""
        self._folder = folder
        self._buffers = [bytearray() for _ in range(_GROUPS)]
        self._held_bytes = 0
        self._blocks: list[list[tuple[int, int]]] = [[] for _ in range(_GROUPS)]
        self._file: IO[bytes] | None = None

    def add(self, record: bytes) -> None:
        """Adds a record."""
        self._buffers[record[0] % _GROUPS].extend(record)
        self._held_bytes += len(record)
        if self._held_bytes > _BYTES_IN_MEMORY:
            self._spill()

    def group(self, number: int) -> bytes:
        """Returns the records of a group, joined in the order in which they came."""
        parts = []
        for start, size in self._blocks[number]:
            assert self._file is not None
            self._file.seek(start)
            parts.append(self._file.read(size))
        return b"".join([*parts, bytes(self._buffers[number])])

    def groups(self) -> Iterator[bytes]:
        """Yields the groups in order; equal records are always in the same."""
        for number in range(_GROUPS):
            yield self.group(number)

    def __enter__(self) -> "SpilledRecords":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # lives as long as this object
        self._file.seek(0, 2)
        for blocks, buffer in zip(self._blocks, self._buffers, strict=True):
            if buffer:
                blocks.append((self._file.tell(), len(buffer)))
                self._file.write(buffer)
                buffer.clear()
        self._held_bytes = 0
