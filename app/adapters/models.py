"""The tables of adapters and aliases."""

from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base

MOVED, CANDIDATE_SET, CANDIDATE_REMOVED, DELETED = "moved", "candidate_set", "candidate_removed", "deleted"


class Adapter(Base):
    """A trained adapter; its files lie in the blob store under its checksum."""

    __tablename__ = "adapters"
    __table_args__ = (UniqueConstraint("name", "version"), Index("ix_adapters_created", "created_at", "id"))

    id: Mapped[str] = mapped_column(String(110), primary_key=True)
    """`telecom:7`"""
    name: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    base_model: Mapped[str] = mapped_column(String(100))
    job_id: Mapped[str] = mapped_column(String(64))
    checksum: Mapped[str] = mapped_column(String(64))
    blob_key: Mapped[str] = mapped_column(String(200))
    spec: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class AdapterCounter(Base):
    """The last version given under a name: a deleted adapter's number is never given again."""

    __tablename__ = "adapter_counters"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    last_version: Mapped[int]


class Alias(Base):
    """A name that points to an adapter, such as `telecom@production`."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"))
    gate: Mapped[dict[str, Any] | None]
    """What the next adapter must not be worse on: `{"file", "metric"}`; None: nothing."""
    updated_at: Mapped[float]


class AliasCandidate(Base):
    """The adapter that an alias tries out beside its own."""

    __tablename__ = "alias_candidates"

    alias: Mapped[str] = mapped_column(ForeignKey("aliases.name", ondelete="CASCADE"), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"))
    mode: Mapped[str] = mapped_column(String(8))
    """`share`: answers its percentage of askers; `shadow`: answers beside the alias's own, for the log alone."""
    percent: Mapped[float]
    created_at: Mapped[float]


class AliasMove(Base):
    """One change of an alias; kept for ever, also after the alias."""

    __tablename__ = "alias_moves"

    alias: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str] = mapped_column(String(20))
    """`moved`, `candidate_set`, `candidate_removed` or `deleted`."""
    from_adapter_id: Mapped[str | None] = mapped_column(String(110))
    to_adapter_id: Mapped[str | None] = mapped_column(String(110))
    made_by: Mapped[str | None] = mapped_column(String(100))
    """As the client said, unchecked; None: it did not say."""
    reason: Mapped[str | None] = mapped_column(Text)
    is_forced: Mapped[bool]
    facts: Mapped[dict[str, Any] | None]
    """The gate's verdict and numbers, or the candidate's mode and percentage."""
    created_at: Mapped[float]
