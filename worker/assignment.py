"""What a training process is told to do: one JSON file in its folder."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

ASSIGNMENT = "assignment.json"
OUTPUT = "output"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Paths are local and were made by the supervisor; nothing of a user's is a path."""

    kind: Literal["finetune", "evaluation", "export"]
    base_model: str
    base_model_folder: str
    base_model_checksum: str
    dataset: str
    """Training rows, or the rows to evaluate on; empty for an export."""
    dataset_checksum: str
    validation: str | None
    spec: dict[str, Any]
    seed: int
    resume_from: str | None
    adapter_folder: str | None
    adapter_checksum: str | None
    max_rows: int | None
    threads: int | None
    memory_limit_gib: float | None = None
    """None: the share, or all that the device has free."""
    card_share: float | None = None
    """The part of a GPU's memory that this process may take; None: the card is this process's own."""
    extra_codes: list[str] = field(default_factory=list)
    """Codes for the vocabulary beside those of the training rows."""
    teachers: list[str] = field(default_factory=list)
    """Folders of the adapters that a training learns from."""
    training: str | None = None
    """For an evaluation: the rows that the adapter was trained on, where they are still there."""
    answered: str | None = None
    """For an evaluation: JSON Lines of the rows that earlier attempts answered."""
    gguf_converter: str | None = None
    """llama.cpp's script, where an export needs it."""
    devices: int = 1
    """Processes that train together, one a GPU."""
    parent_pid: int = field(default_factory=os.getpid)
    """The child dies with this process."""


def write_assignment(folder: Path, assignment: Assignment) -> None:
    """Writes the assignment into a work folder."""
    (folder / ASSIGNMENT).write_text(json.dumps(asdict(assignment), ensure_ascii=False))


def read_assignment(folder: Path) -> Assignment:
    """Reads the assignment of a work folder."""
    return Assignment(**json.loads((folder / ASSIGNMENT).read_text()))
