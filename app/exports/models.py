"""The table of exports."""

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Export(Base):
    """An adapter in one format; its status is its job's, its files lie under `blob_key` once that has succeeded."""

    __tablename__ = "exports"
    __table_args__ = (Index("ix_exports_created", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    model: Mapped[str] = mapped_column(String(110))
    """As the client named it; the adapter that it stood for is the job's."""
    format: Mapped[str] = mapped_column(String(16))
    checksum: Mapped[str | None] = mapped_column(String(64))
    """Of the folder, or of the one file of a GGUF export."""
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    blob_key: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[float]
