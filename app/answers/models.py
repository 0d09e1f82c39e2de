"""The table of the answer log."""

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class LoggedAnswer(Base):
    """One answer that was given. Its model may be deleted since, so it refers to none."""

    __tablename__ = "answers"
    __table_args__ = (
        Index("ix_answers_created", "created_at", "id"),
        Index("ix_answers_model_created", "model", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[float]
    """When it was given, by the api's clock: the row comes later."""
    model: Mapped[str] = mapped_column(String(110))
    """The name that was asked for."""
    adapter_id: Mapped[str | None] = mapped_column(String(110))
    question: Mapped[str | None] = mapped_column(Text)
    question_hash: Mapped[str | None] = mapped_column(String(64))
    """HMAC-SHA256 in hex; equal questions of one deployment have equal hashes."""
    answer: Mapped[str] = mapped_column(Text)
    confidence: Mapped[float]
    fallback_reason: Mapped[str | None] = mapped_column(String(40))
    latency_ms: Mapped[float]
