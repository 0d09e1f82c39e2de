"""The tables of experiments and their arms."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Experiment(Base):
    """What is held fixed and what varies; the row is the truth, and `service.advance` moves it on."""

    __tablename__ = "experiments"
    __table_args__ = (Index("ix_experiments_created", "created_at", "id"), Index("ix_experiments_status", "status"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(20))
    kind: Mapped[str] = mapped_column(String(20))
    vary: Mapped[dict[str, Any]]
    """As the client gave it."""
    hyperparameters: Mapped[dict[str, Any]]
    """Those that every arm has."""
    training_file_id: Mapped[str] = mapped_column(String(64))
    validation_file_id: Mapped[str | None] = mapped_column(String(64))
    test_file_id: Mapped[str] = mapped_column(String(64))
    max_rows: Mapped[int | None]
    """Most rows of the test file that are answered."""
    seed: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float]
    finished_at: Mapped[float | None]


class ExperimentArm(Base):
    """One training and its evaluation; arm 1 is the baseline. Its status is that of its jobs."""

    __tablename__ = "experiment_arms"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    label: Mapped[str] = mapped_column(String(400))
    base_model: Mapped[str] = mapped_column(String(100))
    training_file_id: Mapped[str | None] = mapped_column(String(64))
    """None: the base model as it is."""
    training_rows: Mapped[int]
    hyperparameters: Mapped[dict[str, Any]]
    """All of them, the varied ones included."""
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    evaluation_id: Mapped[str | None] = mapped_column(ForeignKey("evaluations.id"), index=True)
    error: Mapped[str | None] = mapped_column(Text)
    """Why its evaluation could not be queued."""
