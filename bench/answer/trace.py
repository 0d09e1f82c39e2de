"""What real weights answered and in how many passes, to be walked again on other weights with all the real work.

Beside `FILE` lies the adapter's question index, where it has one: drafts come from it, so passes depend on it.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.ml.codes import CodeVocabulary
from app.ml.prompting import PromptRenderer, Wrapper

QUESTION_INDEX = "questions.safetensors"
_VERSION = 1


@dataclass(frozen=True)
class TraceRow:
    """One answered question."""

    question: str
    codes: tuple[str, ...]
    passes: int


@dataclass(frozen=True)
class Trace:
    """Answers of one adapter, and what a walk over them needs of it."""

    model: str
    """Base model whose tokenizer the codes were made with."""
    device: str
    renderer: PromptRenderer
    vocabulary: CodeVocabulary
    rows: tuple[TraceRow, ...]
    question_index: Path | None = None


def write_trace(path: Path, trace: Trace) -> None:
    """Writes a trace, and a copy of the question index beside it."""
    mapping = {
        "version": _VERSION,
        "model": trace.model,
        "device": trace.device,
        "template": trace.renderer.template,
        "wrapper": asdict(trace.renderer.wrapper),
        "vocabulary": asdict(trace.vocabulary),
        "rows": [asdict(row) for row in trace.rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(mapping, ensure_ascii=False, indent=1), encoding="utf-8")
    index = _index_beside(path)
    index.unlink(missing_ok=True)
    if trace.question_index is not None:
        shutil.copyfile(trace.question_index, index)


def read_trace(path: Path) -> Trace:
    """Reads what `write_trace` wrote.

    Raises:
        ValueError: it is of another version.
    """
    mapping: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if mapping.get("version") != _VERSION:
        raise ValueError(f"{path} is no trace of version {_VERSION}. Record it again: --setting real --record {path}")
    vocabulary = mapping["vocabulary"]
    index = _index_beside(path)
    return Trace(
        model=mapping["model"],
        device=mapping["device"],
        renderer=PromptRenderer(mapping["template"], Wrapper(**mapping["wrapper"])),
        vocabulary=CodeVocabulary(tuple(vocabulary["codes"]), vocabulary["max_codes_per_answer"]),
        rows=tuple(TraceRow(row["question"], tuple(row["codes"]), row["passes"]) for row in mapping["rows"]),
        question_index=index if index.exists() else None,
    )


def as_rows(questions: Sequence[str], codes: Sequence[tuple[str, ...]], passes: Sequence[int]) -> tuple[TraceRow, ...]:
    """Joins what an engine gave."""
    return tuple(TraceRow(*row) for row in zip(questions, codes, passes, strict=True))


def _index_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{QUESTION_INDEX}")
