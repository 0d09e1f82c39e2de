"""`/v1/answers`: what was answered."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.answers import repository
from app.answers.log_schemas import LoggedAnswerObject
from app.http.dependencies import AfterParam, LimitParam, ReadingDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage

router = APIRouter(prefix="/v1/answers", tags=["answers"], responses=ERROR_RESPONSES)


@router.get("")
def list_answers(
    session: ReadingDep,
    model: Annotated[
        str | None, Query(max_length=110, description="The name that was asked for: alias, adapter or base model.")
    ] = None,
    after: AfterParam = None,
    limit: LimitParam = 20,
) -> ListPage[LoggedAnswerObject]:
    """Lists the answer log, newest first."""
    rows, has_more = repository.list_page(session, model=model, after=after, limit=limit)
    return ListPage.of([LoggedAnswerObject.of(row) for row in rows], has_more=has_more)


@router.get("/{answer_id}")
def get_answer(session: ReadingDep, answer_id: str) -> LoggedAnswerObject:
    """Returns one answer of the log."""
    return LoggedAnswerObject.of(repository.get(session, answer_id))
