"""The tables of the answer log and of what people say of its answers."""

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonMapping

_CodesOrNull = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class LoggedAnswer(Base):
    """One answer that was given. Its adapter may be deleted since, so it refers to none."""

    __tablename__ = "answers"
    __table_args__ = (
        Index("ix_answers_created", "created_at", "id"),
        Index("ix_answers_model_created", "model", "created_at", "id"),
        Index("ix_answers_adapter_created", "adapter_id", "created_at", "id"),
        Index("ix_answers_confidence", "confidence", "id"),
        Index("ix_answers_reviewed", "reviewed_at", "id"),
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
    verdict: Mapped[str | None] = mapped_column(String(16))
    """The last review's: `right`, `wrong` or `corrected`; none: not reviewed."""
    right_codes: Mapped[list[str] | None] = mapped_column(_CodesOrNull)
    """What the answer should have been, by the last review; none where that is not known."""
    reviewed_at: Mapped[float | None]


class AnswerReview(Base):
    """One review of an answer; the last one counts, and all go with the answer."""

    __tablename__ = "answer_reviews"

    answer_id: Mapped[str] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """Counts an answer's reviews from 1."""
    verdict: Mapped[str] = mapped_column(String(16))
    codes: Mapped[list[str] | None] = mapped_column(_CodesOrNull)
    reviewer: Mapped[str | None] = mapped_column(String(100))
    comment: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float]
