"""The file object of the HTTP dialect."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from app.datasets.models import Dataset
from app.ml.formats.example import Example


class FileObject(BaseModel):
    """OpenAI's file object, with our `sha256` and `report`."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None
    expires_at: int | None = None
    sha256: str
    report: dict[str, Any] | None
    """Rows, codes, categories, duplicate and conflicting questions; in a list its numbers only. See docs/api.md."""
    parent_id: str | None = None
    """The file that a split cut this one from."""
    provenance: dict[str, Any] | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> "FileObject":
        """Builds the object of a row."""
        return cls(
            id=dataset.id,
            bytes=dataset.size_bytes,
            created_at=int(dataset.created_at),
            filename=dataset.filename,
            purpose=dataset.purpose,
            sha256=dataset.sha256,
            report=dataset.report,
            parent_id=dataset.parent_id,
            provenance=dataset.provenance,
        )

    @classmethod
    def brief(cls, dataset: Dataset) -> "FileObject":
        """Builds the object for a list: without the report's own lists, which may hold a thousand codes."""
        found = cls.of(dataset)
        if found.report is not None:
            found.report = {name: value for name, value in found.report.items() if not isinstance(value, list | dict)}
        return found


class RowObject(BaseModel):
    """One row of a dataset."""

    row: int
    question: str
    codes: list[str]
    slices: dict[str, str]


class PreviewObject(BaseModel):
    """Some rows of a dataset, in the file's order."""

    object: Literal["file.preview"] = "file.preview"
    file: str
    rows: int
    """Rows of the whole dataset."""
    data: list[RowObject]

    @classmethod
    def of(cls, dataset: Dataset, examples: Sequence[Example]) -> "PreviewObject":
        """Builds the object of rows that were read."""
        return cls(
            file=dataset.id,
            rows=(dataset.report or {}).get("rows", 0),
            data=[
                RowObject(row=one.row, question=one.question, codes=list(one.codes), slices=dict(one.slices)) for one in examples
            ],
        )
