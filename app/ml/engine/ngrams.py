"""Character n-grams of questions as hashes that are the same in every process."""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from app.ml.engine.compiled import compiled

_EDGE_CHARS = 128
_FNV_OFFSET = 2_166_136_261
_FNV_PRIME = 16_777_619


def ngrams_of(question: str, most_chars: int) -> NDArray[np.uint32]:
    """Returns the sorted distinct hashes of a question's n-grams of 1 to `most_chars` characters, without regard to case.

    Of a long question its first and last 128 characters count.
    """
    if len(question) > 2 * _EDGE_CHARS:
        question = question[:_EDGE_CHARS] + question[-_EDGE_CHARS:]
    folded = unicodedata.normalize("NFKC", question).casefold()
    # A lone surrogate is a character like any other here.
    return _hashed(np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).copy(), most_chars)


@compiled
def _hashed(characters: NDArray[np.uint32], most_chars: int) -> NDArray[np.uint32]:
    hashes = np.empty(most_chars * len(characters), np.uint32)
    count = 0
    for length in range(1, most_chars + 1):
        for place in range(len(characters) - length + 1):
            # FNV-1a over characters; Python's own hash differs from process to process.
            value = np.uint32(_FNV_OFFSET + length)
            for character in characters[place : place + length]:
                value = np.uint32((value ^ character) * np.uint32(_FNV_PRIME))
            hashes[count] = value ^ (value >> np.uint32(15))
            count += 1
    hashes = np.sort(hashes[:count])
    distinct = 0
    for place in range(count):
        if place == 0 or hashes[place] != hashes[place - 1]:
            hashes[distinct] = hashes[place]
            distinct += 1
    return hashes[:distinct].copy()
