"""Queries over the answer log for trials."""

from collections.abc import Sequence

from sqlalchemy import Row, select
from sqlalchemy.orm import Session, aliased

from app.answers.models import LoggedAnswer
from app.answers.variants import SHADOW_SUFFIX

Given = Row[str, str, str | None, float]
"""Id, answer, reason of a fallback, latency in ms."""


def answers_of(
    session: Session, alias: str, adapter_id: str, *, variants: Sequence[str], since: float, limit: int
) -> list[Given]:
    """Returns the newest answers of one side of a trial."""
    query = select(LoggedAnswer.id, LoggedAnswer.answer, LoggedAnswer.fallback_reason, LoggedAnswer.latency_ms).where(
        LoggedAnswer.model == alias,
        LoggedAnswer.adapter_id == adapter_id,
        LoggedAnswer.variant.in_(variants),
        LoggedAnswer.created_at >= since,
    )
    return list(session.execute(query.order_by(LoggedAnswer.created_at.desc()).limit(limit)))


def answered_by_both(
    session: Session, alias: str, primary: str, candidate: str, *, since: float, limit: int
) -> list[Row[str, str]]:
    """Returns the answers of both to the newest questions that the candidate shadowed: the primary's, the candidate's."""
    shadow, own = aliased(LoggedAnswer), aliased(LoggedAnswer)
    query = (
        select(own.answer, shadow.answer)
        .join(shadow, shadow.id == own.id + SHADOW_SUFFIX)
        .where(
            own.model == alias,
            own.adapter_id == primary,
            own.variant == "primary",
            own.created_at >= since,
            shadow.adapter_id == candidate,
            shadow.variant == "shadow",
        )
        .order_by(own.created_at.desc())
        .limit(limit)
    )
    return list(session.execute(query))
