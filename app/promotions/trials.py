"""How a trial goes: what the answer log tells of the alias's own adapter and of the candidate beside it."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.adapters import aliases
from app.adapters import repository as adapters
from app.errors import NotFound
from app.promotions import repository
from app.promotions.repository import Given
from app.promotions.schemas import CandidateObject

MOST_ANSWERS = 10_000
"""Answers of each side that a report looks at, the newest."""


class LatencyObject(BaseModel):
    """Milliseconds from a question's arrival to its answer."""

    p50: float
    p95: float


class SideObject(BaseModel):
    """The logged answers of one side."""

    model: str
    answers: int
    fallback_rate: float | None
    latency_ms: LatencyObject | None

    @classmethod
    def of(cls, model: str, given: Sequence[Given]) -> "SideObject":
        """Counts the answers; rates of none are none."""
        if not given:
            return cls(model=model, answers=0, fallback_rate=None, latency_ms=None)
        times = sorted(row.latency_ms for row in given)
        return cls(
            model=model,
            answers=len(given),
            fallback_rate=round(sum(row.fallback_reason is not None for row in given) / len(given), 4),
            latency_ms=LatencyObject(p50=times[(len(times) - 1) // 2], p95=times[(len(times) * 95 - 1) // 100]),
        )


class AgreementObject(BaseModel):
    """Questions that both have answered: in the mode `shadow` alone."""

    answers: int
    same_codes: int
    agreement: float | None


class TrialObject(BaseModel):
    """How a candidate does beside the alias's own adapter, by the answer log."""

    object: Literal["alias.trial"] = "alias.trial"
    alias: str
    candidate: CandidateObject
    primary: SideObject
    tried: SideObject
    both: AgreementObject


def report(session: Session, name: str) -> TrialObject:
    """Compares the two sides since the trial began, or since the alias moved under it.

    Raises:
        NotFound: no such alias, or it tries nothing out.
    """
    alias = aliases.get_alias(session, name)
    row = adapters.find_candidate(session, name)
    if row is None:
        raise NotFound(
            f'Alias {name!r} tries no candidate out. PUT /v1/aliases/{name} with {{"candidate": {{"model", "percent"}}}} begins.'
        )
    since = max(row.created_at, alias.updated_at)

    def side(adapter_id: str, *variants: str) -> SideObject:
        given = repository.answers_of(session, name, adapter_id, variants=variants, since=since, limit=MOST_ANSWERS)
        return SideObject.of(adapter_id, given)

    pairs = repository.answered_by_both(session, name, alias.adapter_id, row.adapter_id, since=since, limit=MOST_ANSWERS)
    same = sum(set(own.split("|")) == set(tried.split("|")) for own, tried in pairs)
    return TrialObject(
        alias=name,
        candidate=CandidateObject.of(row),
        primary=side(alias.adapter_id, "primary"),
        tried=side(row.adapter_id, "candidate", "shadow"),
        both=AgreementObject(answers=len(pairs), same_codes=same, agreement=round(same / len(pairs), 4) if pairs else None),
    )
