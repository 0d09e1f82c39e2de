"""The table of evaluations."""

from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Evaluation(Base):
    """A model on a file; its status is its job's."""

    __tablename__ = "evaluations"
    __table_args__ = (Index("ix_evaluations_created", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    model: Mapped[str] = mapped_column(String(110))
    """As the client named it; the adapter that it stood for is the job's."""
    file_id: Mapped[str] = mapped_column(String(64))
    metrics: Mapped[dict[str, Any] | None]
    rows_key: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[float]
