"""The tables of jobs, their events, checkpoints, and the workers."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonMapping


class Job(Base):
    """One piece of work for a worker. The row is the truth; `status` is written by `app.jobs.states.move` alone."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_created", "created_at", "id"),
        Index("ix_jobs_due", "status", "due_at"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(20))
    wish: Mapped[str] = mapped_column(String(8), default="none")
    base_model: Mapped[str] = mapped_column(String(100))
    training_file_id: Mapped[str | None] = mapped_column(String(64))
    validation_file_id: Mapped[str | None] = mapped_column(String(64))
    spec: Mapped[dict[str, Any]]
    """A FinetuneSpec, or what an evaluation or export asks."""
    hyperparameters: Mapped[dict[str, Any]]
    """As the client gave them."""
    suffix: Mapped[str | None] = mapped_column(String(64))
    seed: Mapped[int] = mapped_column(BigInteger)
    user_metadata: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    due_at: Mapped[float]
    """When a worker may claim it; only meant while it is queued or interrupted."""
    fence: Mapped[int] = mapped_column(default=0)
    """Counts claims; every write of a worker carries its own and misses once another has claimed."""
    attempts: Mapped[int] = mapped_column(default=0)
    """Claims since the last new checkpoint."""
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[float | None]
    progress: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any] | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    adapter_id: Mapped[str | None] = mapped_column(String(110))
    result_file_ids: Mapped[dict[str, Any] | None]
    """Name -> file id of the loss curve and its numbers."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_param: Mapped[str | None] = mapped_column(String(200))
    event_count: Mapped[int] = mapped_column(default=0)
    codebook_version: Mapped[int | None]
    """The code book whose codes were taken into `extra_codes`; none if it was not asked."""
    extra_codes: Mapped[list[str] | None] = mapped_column(JsonMapping, deferred=True)
    """Codes for the adapter's vocabulary beside those of the training rows. Megabytes perhaps, so read on demand alone."""


class JobEvent(Base):
    """One line of a job's story; `number` counts from 1 without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None]


class Checkpoint(Base):
    """A complete checkpoint in the blob store."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    step: Mapped[int]
    fence: Mapped[int]
    blob_key: Mapped[str] = mapped_column(String(200))
    checksum: Mapped[str] = mapped_column(String(64))
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class IdempotencyKey(Base):
    """A client's key for one creation: the same key gives the same job, evaluation, experiment or export."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_made", "kind", "made_id"),)

    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    """The table of what was made: keys for jobs and for exports know nothing of each other."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    made_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]


class Worker(Base):
    """A worker's sign of life."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    facts: Mapped[dict[str, Any]]
    started_at: Mapped[float]
    seen_at: Mapped[float]
