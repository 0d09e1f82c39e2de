"""The table of the answer log."""

from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonMapping


class LoggedAnswer(Base):
    """One answer that was given. Its adapter may be deleted since, so it refers to none."""

    __tablename__ = "answers"
    __table_args__ = (
        Index("ix_answers_created", "created_at", "id"),
        Index("ix_answers_model_created", "model", "created_at", "id"),
        Index("ix_answers_adapter_created", "adapter_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[float]
    """When it was given, by the api's clock: the row comes later."""
    model: Mapped[str] = mapped_column(String(110))
    """The name that was asked for."""
    adapter_id: Mapped[str | None] = mapped_column(String(110))
    adapter_checksum: Mapped[str | None] = mapped_column(String(64))
    question: Mapped[str | None] = mapped_column(Text)
    question_sha256: Mapped[str | None] = mapped_column(String(64))
    """Of the UTF-8 bytes, where the deployment keeps hashes."""
    answer: Mapped[str] = mapped_column(Text)
    codes: Mapped[list[dict[str, Any]]] = mapped_column(JsonMapping)
    """`{"code", "confidence", "in_vocabulary"}` in the answer's order."""
    confidence: Mapped[float]
    is_calibrated: Mapped[bool]
    alternatives: Mapped[list[dict[str, Any]]] = mapped_column(JsonMapping)
    """`{"answer", "confidence"}`, the likeliest first."""
    fallback_reason: Mapped[str | None] = mapped_column(String(40))
    mode: Mapped[str] = mapped_column(String(16))
    latency_ms: Mapped[float]
    passes: Mapped[int]
    variant: Mapped[str | None] = mapped_column(String(16))
    """`primary`, `candidate` or `shadow` where an alias compares two adapters."""
