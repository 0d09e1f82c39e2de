"""Feedback on answers, the review list, and reviewed answers as a file."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session

from app.answers import repository, review_repository, reviews
from app.answers.review_schemas import CreateFromAnswers, FeedbackList, FeedbackObject, GiveFeedback, ReviewItemObject
from app.answers.reviewed_dataset import MAX_REVIEWED, write_reviewed_dataset
from app.datasets import repository as files
from app.datasets import service as datasets
from app.datasets.models import Dataset
from app.datasets.schemas import FileObject
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import InvalidInput, NotFound
from app.http.dependencies import AfterParam, BlobsDep, EngineDep, LimitParam, ReadingDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage

router = APIRouter(tags=["reviews"], responses=ERROR_RESPONSES)


@router.post("/v1/answers/{answer_id}/feedback")
def give_feedback(session: TransactionDep, blobs: BlobsDep, answer_id: str, body: GiveFeedback) -> FeedbackObject:
    """Says that an answer was right or wrong, or what would have been right; the last word counts, all are kept."""
    review = reviews.review(
        session,
        blobs,
        answer_id,
        verdict=body.verdict,
        codes=body.codes,
        allow_unknown_codes=body.allow_unknown_codes,
        reviewer=body.reviewer,
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
    with tempfile.TemporaryDirectory(dir=request.app.state.uploads_dir) as scratch:
        path, rows = Path(scratch) / "reviewed.jsonl", Path(scratch) / "rows"
        parent, parent_rows = None, None
        # Read and written outside of the transaction: SQLite has one writer at a time.
        with read_only(engine) as session:
            if body.parent is not None:
                parent = _get_parent(session, body.parent)
                if body.include_parent_rows:
                    try:
                        parent_rows = datasets.fetch_rows(blobs, parent, Path(scratch))
                    except FileNotFoundError as error:
                        raise NotFound(f"File {parent.id!r} was deleted meanwhile.", param="parent") from error
            reviewed = review_repository.reviewed(
                session,
                model=body.model,
                adapter=body.adapter,
                since=body.reviewed_since,
                until=body.reviewed_until,
                limit=MAX_REVIEWED + 1,
            )
            counts = write_reviewed_dataset(path, reviewed, parent_rows=parent_rows)
        report = datasets.check_upload(path, rows_to=rows)
        purpose = body.purpose or (parent.purpose if parent is not None else "fine-tune")
        provenance = {
            "kind": "answers",
            "parent_sha256": None if parent is None else parent.sha256,
            **asdict(counts),
            **body.model_dump(include={"model", "adapter", "reviewed_since", "reviewed_until"}, exclude_none=True),
        }
        dataset = None
        try:
            with unit_of_work(engine) as session:
                if parent is not None:
                    # Held until the commit, so that no version outlives a parent that went meanwhile unnoticed.
                    _get_parent(session, parent.id, for_update=True)
                dataset = datasets.create(session, blobs, path, filename=body.filename, purpose=purpose, report=report, rows=rows)
                dataset.parent_id = None if parent is None else parent.id
                dataset.provenance = provenance
        except BaseException:
            if dataset is not None:
                datasets.forget(blobs, dataset.blob_key)
            raise
    return FileObject.of(dataset)


def _get_parent(session: Session, file_id: str, *, for_update: bool = False) -> Dataset:
    parent = files.get(session, file_id, param="parent", for_update=for_update)
    if parent.report is None:
        raise InvalidInput(f"File {file_id!r} is a result, not a dataset. Name a file of questions and answers.", param="parent")
    return parent
