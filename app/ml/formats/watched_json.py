"""What ijson's C parser does not mind: half of a surrogate pair becomes '?', a long text is read anew with every piece."""

import re
from typing import BinaryIO

MAX_TEXT_BYTES = 1 << 20
"""A row of JSON Lines may have no more in all."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|[^u])", re.DOTALL)


class WatchedJson:
    """Bytes on their way to ijson; `read` raises ValueError for a text over 1 MiB (and a piece) and for half a surrogate pair."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""
        """The beginning of an escape whose end comes with the next piece."""
        self._awaits_low = False
        self._since_quote = 0

    def read(self, size: int = -1) -> bytes:
        """Reads the next piece."""
        piece = self._file.read(size)
        window = self._rest + piece
        if b"\\" in window or self._awaits_low:
            self._look_at_escapes(window)
        else:
            self._rest = b""
        # Of the same length, without the quotes that end no text.
        shown = window.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        place = shown.rfind(b'"')
        self._since_quote = self._since_quote + len(piece) if place < 0 else len(window) - place
        if self._since_quote > MAX_TEXT_BYTES:
            raise ValueError(f"a text has more than {MAX_TEXT_BYTES} bytes")
        return piece

    def _look_at_escapes(self, window: bytes) -> None:
        if not self._awaits_low and not _SURROGATE.search(window):
            end = len(window.rpartition(b"\\")[0]) if b"\\" in window[-6:] else len(window)
            # Which backslash of several begins the last escape is only known from the first of them.
            while end and window[end - 1 : end] == b"\\":
                end -= 1
            start = end
        else:
            start = 0
        expected, end = (0 if self._awaits_low else -1), start
        for escape in _ESCAPE.finditer(window, start):
            code = (escape[1] or b"").lower()
            is_low = code[:2] in (b"dc", b"dd", b"de", b"df")
            if is_low != (expected >= 0) or (is_low and escape.start() != expected):
                raise ValueError("half of a surrogate pair")
            expected = escape.end() if code[:2] in (b"d8", b"d9", b"da", b"db") else -1
            end = escape.end()
        place = window.find(b"\\", end)
        self._rest = window[place:] if place >= 0 else b""
        if expected >= 0 and expected != len(window) - len(self._rest):
            raise ValueError("half of a surrogate pair")
        self._awaits_low = expected >= 0
