"""Which weight matrices a base model has, from the headers of its safetensors files: kilobytes read, no torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from app.ml.errors import BrokenModelImport

# A file begins with its header's length (8 bytes, little endian) and the header, JSON: name -> {dtype, shape, data_offsets}.
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 32 * 1024 * 1024
_MAX_FILES = 1_000


def read_modules(folder: Path) -> Mapping[str, tuple[int, int]]:
    """Returns the modules of a base model's folder in the store by their last name (`q_proj`, `embed_tokens`, …).

    With each come the two sides of its matrix; where layers differ, of the narrowest one.

    Raises:
        BrokenModelImport: there are no weights, or a header cannot be read.
    """
    modules: dict[str, tuple[int, int]] = {}
    for name, shape in _shapes(folder):
        path, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2:
            last, sides = path.rpartition(".")[2], (shape[0], shape[1])
            modules[last] = min(modules.get(last, sides), sides, key=min)
    return modules


def _shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files or len(files) > _MAX_FILES:
        raise _broken(folder, f"it has {len(files)} files of weights")
    for path in files:
        try:
            header = _read_header(path)
            yield from ((name, tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _broken(folder, f"the header of {path.name} cannot be read") from error


def _read_header(path: Path) -> dict[str, dict[str, list[int]]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - _LENGTH_BYTES):
            raise ValueError("length")
        header: dict[str, dict[str, list[int]]] = json.loads(file.read(length))
    for name, tensor in header.items():
        if name != "__metadata__" and not all(isinstance(side, int) for side in tensor["shape"]):
            raise ValueError("shape")
    return header


def _broken(folder: Path, reason: str) -> BrokenModelImport:
    return BrokenModelImport(
        f"The weights of base model {folder.name!r} in the model store are damaged: {reason}. Remove the folder, then run: "
        f"dianda models import {folder.name}",
        param="model",
    )
