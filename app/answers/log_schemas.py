"""The logged answer of the HTTP dialect."""

from typing import Literal

from pydantic import BaseModel

from app.answers.models import LoggedAnswer


class LoggedAnswerObject(BaseModel):
    """An answer as it was given."""

    id: str
    object: Literal["logged_answer"] = "logged_answer"
    created_at: float
    """Seconds since 1970, with their fraction."""
    model: str
    """The name that was asked for."""
    adapter: str | None
    """The adapter that answered; it may be deleted since."""
    question: str | None
    """None where the deployment keeps hashes."""
    question_hash: str | None
    """Equal for equal questions of one deployment; none where it keeps texts."""
    answer: str
    confidence: float
    fallback_reason: str | None
    latency_ms: float

    @classmethod
    def of(cls, row: LoggedAnswer) -> "LoggedAnswerObject":
        """Builds the object of a row."""
        return cls(
            id=row.id,
            created_at=row.created_at,
            model=row.model,
            adapter=row.adapter_id,
            question=row.question,
            question_hash=row.question_hash,
            answer=row.answer,
            confidence=row.confidence,
            fallback_reason=row.fallback_reason,
            latency_ms=row.latency_ms,
        )
