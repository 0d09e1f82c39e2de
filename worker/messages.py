"""What a training process and its supervisor say to each other: JSON lines over two pipes.

Down (the child's stdin): one wish a line; its end means that the supervisor is gone. Up (a pipe of its own, so that no
library's print can break it): one message a line.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

MESSAGE_FD_VARIABLE = "DIANDA_MESSAGE_FD"


DISK_FULL_EXIT = os.EX_IOERR
DISK_FULL = "the disk is full. Make room where DIANDA_DATA_DIR lies."


class ChildWish(StrEnum):
    """What the supervisor wants of the child."""

    SAVE_AND_STOP = "save_and_stop"
    STOP = "stop"


@dataclass(frozen=True)
class Started:
    """The work has begun."""

    facts: dict[str, Any]


@dataclass(frozen=True)
class Note:
    """What a user should know but which stops nothing."""

    text: str


@dataclass(frozen=True)
class Advanced:
    """How far the work is."""

    progress: dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """An epoch was scored on the held-out rows."""

    by_epoch: list[dict[str, Any]]
    """The scores of every epoch so far; the last is news. Whole, because a resumed run may tell an epoch anew."""


@dataclass(frozen=True)
class Answered:
    """Rows of an evaluation, to be kept: after an interruption the work goes on behind them."""

    rows: list[dict[str, Any]]
    """`EvaluatedRow`s as mappings."""


@dataclass(frozen=True)
class CheckpointWritten:
    """A sealed checkpoint folder, now the supervisor's."""

    folder: str
    step: int
    checksum: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Stopped:
    """The child obeyed a wish."""


@dataclass(frozen=True)
class Refused:
    """The work cannot succeed as asked."""

    code: str
    message: str
    param: str | None


@dataclass(frozen=True)
class Finished:
    """The work is done; the output folder holds its results."""

    result: dict[str, Any]


Message = Started | Note | Advanced | Evaluated | Answered | CheckpointWritten | Stopped | Refused | Finished
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Started, Note, Advanced, Evaluated, Answered, CheckpointWritten, Stopped, Refused, Finished)
}


def encode(message: Message) -> bytes:
    """Returns one line."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}, ensure_ascii=False).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Reads one line.

    Raises:
        ValueError: it is no message of ours.
    """
    mapping = json.loads(line)
    if not isinstance(mapping, dict):
        raise ValueError("not a message")
    kind = _KINDS.get(str(mapping.pop("kind", "")))
    if kind is None or set(mapping) != {field.name for field in fields(kind)}:
        raise ValueError("not a message")
    message: Message = kind(**mapping)
    return message
