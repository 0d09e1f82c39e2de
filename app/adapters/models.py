"""The tables of adapters and aliases."""

from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


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
    updated_at: Mapped[float]


class AliasMove(Base):
    """One promotion or roll-back; kept for ever."""

    __tablename__ = "alias_moves"

    alias: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    from_adapter_id: Mapped[str | None] = mapped_column(String(110))
    to_adapter_id: Mapped[str] = mapped_column(String(110))
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float]
