"""Queries over reviews and over what waits for one."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from app.answers.models import AnswerReview, LoggedAnswer
from app.answers.variants import SHADOW_SUFFIX
from app.db.clock import db_now
from app.errors import InvalidInput

_SHADOW = aliased(LoggedAnswer, name="shadow")


@dataclass(frozen=True)
class ReviewFilter:
    """Which answers are wanted for review; None: all."""

    reviewed: bool | None = False
    model: str | None = None
    adapter: str | None = None
    max_confidence: float | None = None
    fallback: bool | None = None
    disagreement: bool | None = None
    """Only answers whose shadow answered otherwise (true), or the others."""


@dataclass(frozen=True)
class ReviewItem:
    """An answer, and what a candidate answered in its shadow."""

    answer: LoggedAnswer
    shadow: LoggedAnswer | None

    @property
    def is_disputed(self) -> bool:
        """Whether the candidate answered otherwise."""
        return self.shadow is not None and self.shadow.answer != self.answer.answer


@dataclass(frozen=True)
class ReviewedAnswer:
    """The last word on one logged answer."""

    question: str
    codes: tuple[str, ...] | None
    """The right codes; None: only known to be wrong."""
    is_corrected: bool
    reviewed_at: float


def list_page(session: Session, wanted: ReviewFilter, *, after: str | None, limit: int) -> tuple[list[ReviewItem], bool]:
    """Returns a page of answers whose question is kept, the least sure first, and whether more follow.

    Raises:
        InvalidInput: `after` names no answer.
    """
    query = (
        select(LoggedAnswer, _SHADOW)
        .outerjoin(_SHADOW, _SHADOW.id == LoggedAnswer.id + SHADOW_SUFFIX)
        .where(LoggedAnswer.question.is_not(None), or_(LoggedAnswer.variant.is_(None), LoggedAnswer.variant != "shadow"))
        .order_by(LoggedAnswer.confidence, LoggedAnswer.id)
    )
    if wanted.reviewed is not None:
        query = query.where(LoggedAnswer.verdict.is_not(None) if wanted.reviewed else LoggedAnswer.verdict.is_(None))
    if wanted.model is not None:
        query = query.where(LoggedAnswer.model == wanted.model)
    if wanted.adapter is not None:
        query = query.where(LoggedAnswer.adapter_id == wanted.adapter)
    if wanted.max_confidence is not None:
        query = query.where(LoggedAnswer.confidence <= wanted.max_confidence)
    if wanted.fallback is not None:
        reason = LoggedAnswer.fallback_reason
        query = query.where(reason.is_not(None) if wanted.fallback else reason.is_(None))
    if wanted.disagreement is not None:
        disputed = and_(_SHADOW.id.is_not(None), _SHADOW.answer != LoggedAnswer.answer)
        agreed = or_(_SHADOW.id.is_(None), _SHADOW.answer == LoggedAnswer.answer)
        query = query.where(disputed if wanted.disagreement else agreed)
    if after is not None:
        cursor = session.get(LoggedAnswer, after)
        if cursor is None:
            raise InvalidInput(f"There is no {after!r} to go on after. Use the last id of the page before.", param="after")
        query = query.where(tuple_(LoggedAnswer.confidence, LoggedAnswer.id) > (cursor.confidence, cursor.id))
    rows = [ReviewItem(answer, shadow) for answer, shadow in session.execute(query.limit(limit + 1))]
    return rows[:limit], len(rows) > limit


def count_reviews(session: Session, answer_id: str) -> int:
    """Returns how many reviews an answer has."""
    return session.scalar(select(func.count()).where(AnswerReview.answer_id == answer_id)) or 0


def list_reviews(session: Session, answer_id: str) -> list[AnswerReview]:
    """Returns an answer's reviews, the last first."""
    query = select(AnswerReview).where(AnswerReview.answer_id == answer_id).order_by(AnswerReview.number.desc())
    return list(session.scalars(query))


def add(
    session: Session,
    answer: LoggedAnswer,
    *,
    number: int,
    verdict: str,
    codes: list[str] | None,
    reviewer: str | None,
    comment: str | None,
) -> AnswerReview:
    """Stores a review, which is the answer's last from now on; the caller holds the answer's lock."""
    now = session.scalar(select(db_now())) or 0.0
    review = AnswerReview(
        answer_id=answer.id,
        number=number,
        verdict=verdict,
        codes=codes,
        reviewer=reviewer,
        comment=comment,
        created_at=now,
    )
    session.add(review)
    answer.verdict, answer.right_codes, answer.reviewed_at = verdict, codes, now
    session.flush()
    return review


def reviewed(
    session: Session,
    *,
    model: str | None,
    adapter: str | None,
    since: float | None,
    until: float | None,
    limit: int,
) -> Iterator[ReviewedAnswer]:
    """Yields at most `limit` reviewed answers whose question is kept, the last reviewed last.

    `since` (inclusive) and `until` (exclusive) bound the time of the last review, seconds since 1970.
    """
    query = (
        select(LoggedAnswer.question, LoggedAnswer.right_codes, LoggedAnswer.verdict, LoggedAnswer.reviewed_at)
        .where(LoggedAnswer.reviewed_at.is_not(None), LoggedAnswer.question.is_not(None))
        .order_by(LoggedAnswer.reviewed_at, LoggedAnswer.id)
        .limit(limit)
    )
    if model is not None:
        query = query.where(LoggedAnswer.model == model)
    if adapter is not None:
        query = query.where(LoggedAnswer.adapter_id == adapter)
    if since is not None:
        query = query.where(LoggedAnswer.reviewed_at >= since)
    if until is not None:
        query = query.where(LoggedAnswer.reviewed_at < until)
    for question, codes, verdict, reviewed_at in session.execute(query):
        assert question is not None and reviewed_at is not None
        yield ReviewedAnswer(question, None if codes is None else tuple(codes), verdict == "corrected", reviewed_at)
