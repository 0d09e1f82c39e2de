"""The tables of evaluations and their rows."""

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
    created_at: Mapped[float]


class EvaluationRow(Base):
    """One answered row, kept as soon as it is answered: an evaluation that is interrupted goes on behind it."""

    __tablename__ = "evaluation_rows"
    __table_args__ = (Index("ix_evaluation_rows_right", "evaluation_id", "is_right", "row"),)

    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Position in the file, from 1."""
    is_right: Mapped[bool]
    data: Mapped[dict[str, Any]]
    """An `EvaluatedRow`."""
