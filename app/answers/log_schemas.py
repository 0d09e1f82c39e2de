"""The logged answer of the HTTP dialect."""

from typing import Literal

from pydantic import BaseModel

from app.answers.models import LoggedAnswer
from app.answers.schemas import AlternativeObject, FallbackObject


class LoggedCodeObject(BaseModel):
    """One code of a logged answer; its text is the code book's, today's."""

    code: str
    confidence: float
    in_vocabulary: bool


class VerdictObject(BaseModel):
    """What the last review says of an answer."""

    verdict: Literal["right", "wrong", "corrected"]
    codes: list[str] | None
    """The right codes; none where the review only says that the answer is wrong."""
    reviewed_at: float


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
    adapter_checksum: str | None
    question: str | None
    """None where the deployment does not keep texts."""
    question_sha256: str | None
    """Of the question's UTF-8 bytes; none where the deployment does not keep hashes."""
    answer: str
    codes: list[LoggedCodeObject]
    confidence: float
    calibrated: bool
    alternatives: list[AlternativeObject]
    fallback: FallbackObject
    mode: str
    latency_ms: float
    passes: int
    variant: Literal["primary", "candidate", "shadow"] | None
    """Which side of a comparison it was, where an alias compares two adapters."""
    review: VerdictObject | None
    """The last review; none: nobody has looked at it yet."""

    @classmethod
    def of(cls, row: LoggedAnswer) -> "LoggedAnswerObject":
        """Builds the object of a row."""
        return cls.model_validate(
            {
                "id": row.id,
                "created_at": row.created_at,
                "model": row.model,
                "adapter": row.adapter_id,
                "adapter_checksum": row.adapter_checksum,
                "question": row.question,
                "question_sha256": row.question_sha256,
                "answer": row.answer,
                "codes": row.codes,
                "confidence": row.confidence,
                "calibrated": row.is_calibrated,
                "alternatives": row.alternatives,
                "fallback": {"triggered": row.fallback_reason is not None, "reason": row.fallback_reason},
                "mode": row.mode,
                "latency_ms": row.latency_ms,
                "passes": row.passes,
                "variant": row.variant,
                "review": None
                if row.verdict is None
                else {"verdict": row.verdict, "codes": row.right_codes, "reviewed_at": row.reviewed_at},
            }
        )
