"""The product's own rows: what jobs and evaluations read, whatever format the user uploaded.

JSON Lines behind a line that names the version; written once, at upload, from rows that passed every rule.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import orjson

from app.ml.errors import DatasetFormatError
from app.ml.formats.example import Example

_FIRST_LINE = b'{"dianda_rows":1}\n'


class CanonicalWriter:
    """Writes examples; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(_FIRST_LINE)

    def write(self, example: Example) -> None:
        """Appends one row."""
        fields: dict[str, object] = {"row": example.row, "question": example.question, "codes": example.codes}
        if example.slices:
            fields["slices"] = dict(example.slices)
        self._file.write(orjson.dumps(fields) + b"\n")

    def __enter__(self) -> "CanonicalWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()


def is_canonical(path: Path) -> bool:
    """Says whether a file of the blob store holds canonical rows."""
    with path.open("rb") as file:
        return file.read(len(_FIRST_LINE)) == _FIRST_LINE


def read_canonical(path: Path) -> Iterator[Example]:
    """Yields the rows.

    Raises:
        DatasetFormatError: the stored file is damaged.
    """
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, start=1):
            try:
                fields = orjson.loads(line)
                yield Example(fields["row"], fields["question"], tuple(fields["codes"]), fields.get("slices", {}))
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise DatasetFormatError(
                    f"The stored rows are damaged at row {number}. Upload the file again.", details={"row": number}
                ) from error
