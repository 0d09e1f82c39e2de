"""The table of files."""

from typing import Any

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Dataset(Base):
    """One uploaded or produced file; its bytes lie in the blob store under `blob_key`."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_created", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(32))
    filename: Mapped[str] = mapped_column(String(200))
    """What the client called it: shown, never used as a path."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    blob_key: Mapped[str] = mapped_column(String(200))
    report: Mapped[dict[str, Any] | None]
    """The validation report; none for results."""
    created_at: Mapped[float]
    parent_id: Mapped[str | None] = mapped_column(String(64))
    """The file that this one was cut from; it may be gone since."""
    provenance: Mapped[dict[str, Any] | None]
    """How it was cut; enough to cut it again from the same bytes."""
