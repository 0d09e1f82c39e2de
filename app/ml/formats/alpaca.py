"""JSON rows: an array of objects, or JSON Lines. Memory stays flat.

ijson streams the array (its C backend where there is one); orjson reads the lines. Which fields are question and answer is
not decided here: Alpaca's, a chat's or others' rows all pass through.
"""

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import ijson
import orjson

from app.ml.errors import DatasetFormatError
from app.ml.formats.example import RawRow, RowError
from app.ml.formats.repeated_names import find_repeated_name
from app.ml.formats.watched_json import WatchedJson

MAX_LINE_BYTES = 1 << 20
_MAX_DEPTH = 20
_MAX_NAME_CHARS = 100


def first_byte(file: BinaryIO) -> bytes:
    """Returns the first byte that is no blank, or nothing."""
    while byte := file.read(1):
        if not byte.isspace():
            return byte
    return b""


def read_array(file: BinaryIO) -> Iterator[RawRow | RowError]:
    """Yields the elements of a JSON array.

    Raises:
        DatasetFormatError: the JSON breaks off.
    """
    row = 0
    try:
        for item in _array_items(file):
            row = item.row
            yield item
    except (ijson.JSONError, UnicodeDecodeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else "unreadable"
        raise DatasetFormatError(
            f"The JSON breaks off after row {row}: {reason}. Repair the file and upload it again.", details={"row": row + 1}
        ) from error


def read_lines(file: BinaryIO) -> Iterator[RawRow | RowError]:
    """Yields one row a line; blank lines are counted and passed over.

    Raises:
        DatasetFormatError: a line has more than 1 MiB.
    """
    row = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        row += 1
        if len(line) > MAX_LINE_BYTES:
            raise DatasetFormatError(f"Row {row} is longer than {MAX_LINE_BYTES} bytes.", details={"row": row})
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield RowError(row, None, f"is not JSON: {error.msg} at column {error.colno}")
            continue
        yield _raw(row, value, find_repeated_name(line))


def _array_items(file: BinaryIO) -> Iterator[RawRow | RowError]:
    # Built by hand from events, because ijson.items would build values of any depth. `use_float`, because without it an
    # integer of more than 4300 digits crashes the process (ijson 3.6, C backend).
    depth, row = 0, 1
    builder = ijson.ObjectBuilder()
    names: list[set[str]] = []
    repeated: str | None = None
    for event, value in ijson.basic_parse(WatchedJson(file), use_float=True):
        if event in ("end_map", "end_array"):
            depth -= 1
            names.pop()
        elif event == "map_key":
            if value in names[-1] and repeated is None:
                repeated = value
            names[-1].add(value)
        if depth >= 1:
            builder.event(event, value)
            if depth == 1 and event not in ("start_map", "start_array"):
                yield _raw(row, builder.value, repeated)
                builder, repeated = ijson.ObjectBuilder(), None
                row += 1
        if event in ("start_map", "start_array"):
            depth += 1
            names.append(set())
            if depth > _MAX_DEPTH:
                raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")


def _raw(row: int, value: object, repeated: str | None) -> RawRow | RowError:
    if not isinstance(value, Mapping):
        return RowError(row, None, "must be an object with instruction and output")
    if repeated is not None:
        return RowError(row, repeated[:_MAX_NAME_CHARS], "stands in the row twice: which one is meant?")
    return RawRow(row, value)
