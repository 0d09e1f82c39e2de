"""A stored folder as one uncompressed tar, streamed: never in memory, and the same bytes each time."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 1 << 20
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Content:
    """Bytes of a known number, read as they are sent; the files are open, so that no deletion cuts them short."""

    size_bytes: int
    chunks: Iterator[bytes]


def open_file(path: Path) -> Content:
    """Returns one file's bytes.

    Raises:
        FileNotFoundError: it is not there.
    """
    return Content(path.stat().st_size, _read(path.open("rb")))


def open_tar(folder: Path) -> Content:
    """Returns the tar of a flat folder's files, sorted by name, without owners and times.

    Raises:
        FileNotFoundError: the folder is not there.
    """
    members = [(_header(path), path.open("rb"), path.stat().st_size) for path in sorted(folder.iterdir())]
    size_bytes = sum(len(header) + size + _padding(size) for header, _, size in members) + len(_END)

    def chunks() -> Iterator[bytes]:
        for header, file, size in members:
            yield header
            yield from _read(file)
            yield bytes(_padding(size))
        yield _END

    return Content(size_bytes, chunks())


def _header(path: Path) -> bytes:
    member = tarfile.TarInfo(path.name)
    member.size = path.stat().st_size
    # PAX: a shard may have more than the 8 GiB that ustar can say.
    return member.tobuf(tarfile.PAX_FORMAT)


def _padding(size_bytes: int) -> int:
    return -size_bytes % tarfile.BLOCKSIZE


def _read(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
