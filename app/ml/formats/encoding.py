"""The encoding of a text file: found strictly, never by guessing that loses a character.

A byte order mark decides first, then the user's `encoding`, then strict UTF-8. What is none of these is GB18030 only if the
whole file decodes as such and reads like Chinese; a warning says so. Latin-1 "decodes" anything and is never tried.
"""

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import InvalidInput
from app.ml.errors import DatasetFormatError

# What people call them -> Python's codec. GBK and GB2312 are read as their superset.
ENCODINGS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "utf-8-sig": "utf-8",
    "utf-16": "utf-16",
    "utf16": "utf-16",
    "utf-16-le": "utf-16-le",
    "utf-16-be": "utf-16-be",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "cp936": "gb18030",
    "gb18030": "gb18030",
}
_CHUNK_BYTES = 1 << 16
_UTF16_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
# Of the two-byte characters, this share must be everyday Chinese (GB 2312 rows 1-9 and 16-55): UTF-8 or Latin text that
# happens to decode as GB18030 lands elsewhere.
_EVERYDAY_SHARE = 0.9


@dataclass(frozen=True)
class TextEncoding:
    """How a file's bytes are read."""

    name: str
    mark_bytes: int = 0
    """Length of the byte order mark, which is skipped."""
    broken_line: int | None = None
    """1-based line of the first byte that is no text; only for UTF-8, whose lines may be judged one by one."""
    detected: bool = False
    """Nothing but the file's look says so."""


def codec_of(encoding: str) -> str:
    """Returns Python's name of an encoding that users may ask for.

    Raises:
        InvalidInput: it is none of those that can be read without loss.
    """
    codec = ENCODINGS.get(encoding.strip().lower().replace("_", "-"))
    if codec is None:
        raise InvalidInput("The encoding must be utf-8, utf-16, utf-16-le, utf-16-be, gbk or gb18030.", param="encoding")
    return codec


def detect_encoding(path: Path, *, asked: str | None = None) -> TextEncoding:
    """Finds the encoding of a text file; reads it once or twice in pieces.

    Raises:
        InvalidInput: `asked` is no encoding that can be read.
        DatasetFormatError: the file contradicts `asked`, or a UTF-16 file is broken; the details name the line.
    """
    with path.open("rb") as file:
        start = file.read(_CHUNK_BYTES)
    codec = None if asked is None else codec_of(asked)
    marked = _marked(start)
    if marked is not None:
        family = {"utf-16": ("utf-16-le", "utf-16-be")}.get(codec or "", (codec,))
        if codec is not None and marked.name not in family:
            raise DatasetFormatError(
                f"The file begins with the byte order mark of {marked.name}, but the encoding was given as {asked}.",
                param="encoding",
                details={"row": 1},
            )
        broken = _first_broken_line(path, marked)
        if broken is None or marked.name == "utf-8":
            return TextEncoding(marked.name, marked.mark_bytes, broken)
        raise _not_decodable(marked.name, broken)
    if codec is not None:
        found = TextEncoding("utf-16-le" if codec == "utf-16" else codec)
        broken = _first_broken_line(path, found)
        if broken is not None and found.name != "utf-8":
            raise _not_decodable(asked or codec, broken)
        if found.name == "gb18030" and _is_utf8_by_its_look(path):
            raise DatasetFormatError(
                f"The file is UTF-8 text, but the encoding was given as {asked}. Leave the field 'encoding' out.",
                param="encoding",
                details={"row": 1},
            )
        return TextEncoding(found.name, 0, broken)
    broken = _first_broken_line(path, TextEncoding("utf-8"))
    if broken is not None and _reads_like_chinese(path):
        return TextEncoding("gb18030", detected=True)
    return TextEncoding("utf-8", 0, broken)


def open_as_utf8(path: Path, encoding: TextEncoding) -> BinaryIO:
    """Opens a text file so that reading gives UTF-8 without a mark, whatever it is on disk."""
    file = path.open("rb")
    file.seek(encoding.mark_bytes)
    if encoding.name == "utf-8":
        return file
    return io.BufferedReader(_Recoded(file, encoding.name), _CHUNK_BYTES)


def refuse_broken_text(encoding: TextEncoding) -> None:
    """Refuses a file whose text cannot be read to its end.

    Raises:
        DatasetFormatError: names the line and what to do.
    """
    if encoding.broken_line is not None:
        raise _not_decodable("UTF-8", encoding.broken_line)


class _Recoded(io.RawIOBase):
    """A raw stream that decodes a file and gives it as UTF-8, piece by piece."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("strict")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._file.read(_CHUNK_BYTES)
            self._ready = self._decoder.decode(chunk, final=not chunk).encode()
            if not chunk and not self._ready:
                return 0
        part = self._ready[: len(buffer)]
        self._ready = self._ready[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def _marked(start: bytes) -> TextEncoding | None:
    if start.startswith(codecs.BOM_UTF8):
        return TextEncoding("utf-8", 3)
    name = _UTF16_MARKS.get(start[:2])
    # Every UTF-16 dataset has a comma, a brace or a line end, and so a zero byte; without one the mark is broken UTF-8.
    if name is not None and (b"\x00" in start or len(start) == 2):
        return TextEncoding(name, 2)
    return None


def _first_broken_line(path: Path, encoding: TextEncoding) -> int | None:
    decoder = codecs.getincrementaldecoder(encoding.name)("strict")
    line = 1
    with path.open("rb") as file:
        file.seek(encoding.mark_bytes)
        while True:
            chunk = file.read(_CHUNK_BYTES)
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                # `error.object` is what the decoder held back and this piece.
                whole = bytes(error.object[: error.start]).decode(encoding.name, "replace")
                return line + whole.count("\n")
            if not chunk:
                return None


def _is_utf8_by_its_look(path: Path) -> bool:
    """Says whether a file that also decodes as GB18030 is UTF-8: by chance no Chinese text in the one is Chinese in the other."""
    with path.open("rb") as file:
        is_ascii = all(chunk.isascii() for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""))
    return not is_ascii and _first_broken_line(path, TextEncoding("utf-8")) is None and not _reads_like_chinese(path)


def _reads_like_chinese(path: Path) -> bool:
    everyday = others = 0
    try:
        for text in _decoded(path, "gb18030"):
            for char in text:
                if char.isascii():
                    continue
                code = char.encode("gb18030")
                lead, trail = code[0], code[1]
                if len(code) == 2 and trail >= 0xA1 and (0xA1 <= lead <= 0xA9 or 0xB0 <= lead <= 0xD7):
                    everyday += 1
                else:
                    others += 1
    except UnicodeDecodeError:
        return False
    return everyday > 0 and everyday >= _EVERYDAY_SHARE * (everyday + others)


def _decoded(path: Path, codec: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(codec)("strict")
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield decoder.decode(chunk)
    decoder.decode(b"", final=True)


def _not_decodable(name: str, line: int) -> DatasetFormatError:
    return DatasetFormatError(
        f"Line {line} is not {name} text. Save the file as UTF-8, or say what it is with the field 'encoding' "
        "(utf-8, utf-16, gbk, gb18030).",
        param="encoding",
        details={"row": line},
    )
