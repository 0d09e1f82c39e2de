"""`/v1/answers`: what was answered."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.answers import repository
from app.answers.log_schemas import LoggedAnswerObject
from app.http.dependencies import AfterParam, LimitParam, ReadingDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage

router = APIRouter(prefix="/v1/answers", tags=["answers"], responses=ERROR_RESPONSES)

_MAX_EPOCH_S = 1e11


@router.get("")
def list_answers(
    session: ReadingDep,
    model: Annotated[str | None, Query(max_length=110, description="The name asked for: alias, adapter or base model.")] = None,
    adapter: Annotated[str | None, Query(max_length=110, description="The adapter that answered.")] = None,
    fallback: Annotated[bool | None, Query(description="Only answers that were handed over (true), or that were not.")] = None,
    max_confidence: Annotated[float | None, Query(ge=0, le=1, description="Highest confidence of the answer.")] = None,
    since: Annotated[float | None, Query(ge=0, le=_MAX_EPOCH_S, description="Seconds since 1970, inclusive.")] = None,
    until: Annotated[float | None, Query(ge=0, le=_MAX_EPOCH_S, description="Seconds since 1970, exclusive.")] = None,
    after: AfterParam = None,
    limit: LimitParam = 20,
) -> ListPage[LoggedAnswerObject]:
    """Lists the answer log, newest first."""
    wanted = repository.AnswerFilter(
        model=model, adapter=adapter, fallback=fallback, max_confidence=max_confidence, since=since, until=until
    )
    rows, has_more = repository.list_page(session, wanted, after=after, limit=limit)
    return ListPage.of([LoggedAnswerObject.of(row) for row in rows], has_more=has_more)


@router.get("/{answer_id}")
def get_answer(session: ReadingDep, answer_id: str) -> LoggedAnswerObject:
    """Returns one answer of the log."""
    return LoggedAnswerObject.of(repository.get(session, answer_id))
