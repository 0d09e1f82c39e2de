"""Feedback on answers, the review list, and reviewed answers as a file."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.access.dependencies import CallerDep
from app.answers import repository, review_repository, reviews
from app.answers.review_schemas import CreateFromAnswers, FeedbackList, FeedbackObject, GiveFeedback, ReviewItemObject
from app.answers.reviewed_file import store_reviewed
from app.datasets.schemas import FileObject
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, LimitParam, ReadingDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage

router = APIRouter(tags=["reviews"], responses=ERROR_RESPONSES)


@router.post("/v1/answers/{answer_id}/feedback")
def give_feedback(
    caller: CallerDep, session: TransactionDep, blobs: BlobsDep, answer_id: str, body: GiveFeedback
) -> FeedbackObject:
    """Says that an answer was right or wrong, or what would have been right; the last word counts, all are kept."""
    review = reviews.review(
        session,
        blobs,
        answer_id,
        verdict=body.verdict,
        codes=body.codes,
        allow_unknown_codes=body.allow_unknown_codes,
        reviewer=body.reviewer or caller.author(None),
        comment=body.comment,
    )
    return FeedbackObject.of(review)


@router.get("/v1/answers/{answer_id}/feedback")
def list_feedback(session: ReadingDep, answer_id: str) -> FeedbackList:
    """Lists all reviews of an answer, the last first."""
    repository.get(session, answer_id)
    return FeedbackList(data=[FeedbackObject.of(row) for row in review_repository.list_reviews(session, answer_id)])


@router.get("/v1/review")
def list_review_items(
    session: ReadingDep,
    reviewed: Annotated[bool | None, Query(description="Only reviewed answers (true), or only others (default).")] = False,
    model: Annotated[str | None, Query(max_length=110, description="The name asked for: alias, adapter or base model.")] = None,
    adapter: Annotated[str | None, Query(max_length=110, description="The adapter that answered.")] = None,
    max_confidence: Annotated[float | None, Query(ge=0, le=1, description="Highest confidence of the answer.")] = None,
    fallback: Annotated[bool | None, Query(description="Only answers that were handed over (true), or that were not.")] = None,
    disagreement: Annotated[
        bool | None, Query(description="Only answers that a candidate's shadow contradicts (true), or the others.")
    ] = None,
    after: AfterParam = None,
    limit: LimitParam = 20,
) -> ListPage[ReviewItemObject]:
    """Lists answers to look at, the least sure first; only those whose question's text is kept."""
    wanted = review_repository.ReviewFilter(
        reviewed=reviewed,
        model=model,
        adapter=adapter,
        max_confidence=max_confidence,
        fallback=fallback,
        disagreement=disagreement,
    )
    items, has_more = review_repository.list_page(session, wanted, after=after, limit=limit)
    return ListPage.of([ReviewItemObject.of(item) for item in items], has_more=has_more)


@router.post("/v1/files/from_answers")
def create_file_from_answers(request: Request, engine: EngineDep, blobs: BlobsDep, body: CreateFromAnswers) -> FileObject:
    """Makes a dataset of reviewed answers, a version of its parent if one is named; of a question the last review counts."""
    dataset = store_reviewed(body, engine=engine, blobs=blobs, uploads_dir=request.app.state.uploads_dir)
    return FileObject.of(dataset)
