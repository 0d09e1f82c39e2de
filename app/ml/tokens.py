"""Text to token ids and back, with the `tokenizers` library alone (no torch, no transformers).

Text is always plain text: `<eos>` typed by a customer becomes its characters, never the control token.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class TextTokenizer(Protocol):
    """What rendering and answering need of a tokenizer."""

    @property
    def bos_id(self) -> int | None:
        """The id that starts a prompt, or None where the base model wants none."""
        ...

    @property
    def eos_id(self) -> int:
        """The id that ends an answer."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that fills a batch; masked everywhere."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, without special tokens."""
        ...


@dataclass(frozen=True)
class FileTokenizer:
    """A tokenizer read from a base model's folder (`tokenizer.json` and the ids stored beside it)."""

    backend: Any
    bos_id: int | None
    eos_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, without special tokens."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))


SPECIAL_IDS = "special_ids.json"


def write_special_ids(folder: Path, *, bos_id: int | None, eos_id: int, pad_id: int) -> None:
    """Stores the control ids beside `tokenizer.json`, so that no process needs transformers to learn them."""
    (folder / SPECIAL_IDS).write_text(json.dumps({"bos_id": bos_id, "eos_id": eos_id, "pad_id": pad_id}))


def load_tokenizer(folder: Path) -> FileTokenizer:
    """Reads the tokenizer of a base model's folder in the model store."""
    from tokenizers import Tokenizer  # noqa: PLC0415  # 30 ms and native code: only for those who tokenize

    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.encode_special_tokens = True
    backend.no_padding()
    backend.no_truncation()
    ids = json.loads((folder / SPECIAL_IDS).read_text())
    return FileTokenizer(backend, ids["bos_id"], ids["eos_id"], ids["pad_id"])
