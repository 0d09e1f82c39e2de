"""The code book of the HTTP dialect."""

from typing import Annotated, Literal

from pydantic import BaseModel, FailFast, Field

from app.codebook.entries import MAX_ENTRIES, Entry, GivenRow
from app.codebook.models import Codebook
from app.codebook.service import Coverage, Replaced
from app.http.schemas import RequestBody


class GivenEntry(RequestBody):
    """One code; without a category, the one that its name tells counts."""

    code: str
    category: str | None = None
    text: Annotated[str, Field(description="What the customer is told.")] | None = None


class PutCodebook(RequestBody):
    """The whole book."""

    # The first wrong entry ends the check: a body of 16 MiB could have millions.
    entries: Annotated[list[GivenEntry], FailFast(), Field(max_length=MAX_ENTRIES)]

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {"entries": [{"code": "开通方式_98", "category": "开通方式", "text": "发送短信 KT 到 10001 即可开通。"}]}
            ]
        }
    }

    def rows(self) -> list[GivenRow]:
        """Returns the entries as rows; the first is row 1."""
        return [GivenRow(row, one.code, one.category, one.text) for row, one in enumerate(self.entries, start=1)]


class EntryObject(BaseModel):
    """One code of the book."""

    code: str
    category: str | None
    text: str | None


class CodebookObject(BaseModel):
    """The whole book, by code."""

    object: Literal["codebook"] = "codebook"
    version: int
    updated_at: int | None
    entries: list[EntryObject]

    @classmethod
    def of(cls, book: Codebook, entries: list[Entry]) -> "CodebookObject":
        """Builds the object of the book's row and entries."""
        return cls(
            version=book.version,
            updated_at=None if book.updated_at is None else int(book.updated_at),
            entries=[EntryObject(code=one.code, category=one.category, text=one.text) for one in entries],
        )


class ReplacedObject(BaseModel):
    """What a replacement did; the version counts changes."""

    object: Literal["codebook.replaced"] = "codebook.replaced"
    version: int
    updated_at: int | None
    entry_count: int
    added: int
    changed: int
    removed: int

    @classmethod
    def of(cls, replaced: Replaced) -> "ReplacedObject":
        """Builds the object."""
        return cls(
            version=replaced.version,
            updated_at=None if replaced.updated_at is None else int(replaced.updated_at),
            entry_count=replaced.entries,
            added=replaced.added,
            changed=replaced.changed,
            removed=replaced.removed,
        )


class CoverageObject(BaseModel):
    """How the book and an adapter's vocabulary fit; lists are cut at `limit`, counts are not."""

    object: Literal["codebook.report"] = "codebook.report"
    model: str
    adapter: str
    code_count: int
    codes_without_text_count: int
    codes_without_text: list[str]
    """Codes with a number at their end, such as `开通方式_98`."""
    values_without_text_count: int
    values_without_text: list[str]
    """All other codes, such as `11.9`, which mostly speak for themselves."""
    texts_without_code_count: int
    texts_without_code: list[str]
    """Codes that the book has a text for and the adapter never answers with."""

    @classmethod
    def of(cls, model: str, coverage: Coverage, *, limit: int) -> "CoverageObject":
        """Builds the object."""
        return cls(
            model=model,
            adapter=coverage.adapter_id,
            code_count=coverage.codes,
            codes_without_text_count=len(coverage.codes_without_text),
            codes_without_text=list(coverage.codes_without_text[:limit]),
            values_without_text_count=len(coverage.values_without_text),
            values_without_text=list(coverage.values_without_text[:limit]),
            texts_without_code_count=len(coverage.texts_without_code),
            texts_without_code=list(coverage.texts_without_code[:limit]),
        )
