"""The tables of the code book."""

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Codebook(Base):
    """The book as a whole: one row, once it was written."""

    __tablename__ = "codebook"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    """Counts changes, so that a reader need not read the entries to know that nothing is new."""
    updated_at: Mapped[float | None]
    """None: never written."""


class CodebookEntry(Base):
    """What is known of one code."""

    __tablename__ = "codebook_entries"

    code: Mapped[str] = mapped_column(String(200), primary_key=True)
    category: Mapped[str | None] = mapped_column(String(200))
    """Overrides the category that the code's own name tells."""
    text: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[float]
    """When this entry last changed; a replacement leaves equal entries as they are."""
