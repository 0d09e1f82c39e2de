"""Feedback, the review list, and datasets of reviewed answers in the HTTP dialect."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.answers.log_schemas import LoggedAnswerObject
from app.answers.models import AnswerReview
from app.answers.review_repository import ReviewItem
from app.answers.reviews import Verdict
from app.http.schemas import RequestBody, Text
from app.ml.codes import MAX_CODES_PER_ANSWER
from app.ml.formats.example import MAX_CODE_CHARS

_Code = Annotated[Text, Field(min_length=1, max_length=MAX_CODE_CHARS)]
_Time = Annotated[float, Field(ge=0, le=1e11, description="Of the last review, seconds since 1970.")]


class GiveFeedback(RequestBody):
    """A review of one answer."""

    verdict: Annotated[Verdict, Field(description="`corrected` brings the right codes.")]
    codes: Annotated[list[_Code] | None, Field(max_length=MAX_CODES_PER_ANSWER, description="The right codes, in order.")] = None
    allow_unknown_codes: Annotated[
        bool, Field(description="Take codes that the vocabulary of the adapter that answered does not list.")
    ] = False
    reviewer: Annotated[Text | None, Field(max_length=100, description="Who says so; else the key's name.")] = None
    comment: Annotated[Text | None, Field(max_length=2000)] = None

    model_config = RequestBody.model_config | {
        "json_schema_extra": {"examples": [{"verdict": "corrected", "codes": ["取消方式_1"], "reviewer": "li.wei"}]}
    }


class FeedbackObject(BaseModel):
    """A review as it is kept."""

    object: Literal["answer.feedback"] = "answer.feedback"
    answer_id: str
    number: int
    """Counts an answer's reviews from 1; the highest one counts."""
    verdict: Verdict
    codes: list[str] | None
    """The right codes; none where the review only says that the answer is wrong."""
    reviewer: str | None
    comment: str | None
    created_at: float

    @classmethod
    def of(cls, row: AnswerReview) -> "FeedbackObject":
        """Builds the object of a row."""
        return cls.model_validate(
            {
                "answer_id": row.answer_id,
                "number": row.number,
                "verdict": row.verdict,
                "codes": row.codes,
                "reviewer": row.reviewer,
                "comment": row.comment,
                "created_at": row.created_at,
            }
        )


class FeedbackList(BaseModel):
    """All reviews of one answer, the last first."""

    object: Literal["list"] = "list"
    data: list[FeedbackObject]


class ReviewItemObject(BaseModel):
    """An answer that someone should look at, or has looked at."""

    id: str
    """The answer's."""
    object: Literal["review_item"] = "review_item"
    answer: LoggedAnswerObject
    shadow: LoggedAnswerObject | None
    """What a candidate answered to the same question, unseen."""
    disagreement: bool
    """Whether the candidate answered otherwise."""

    @classmethod
    def of(cls, item: ReviewItem) -> "ReviewItemObject":
        """Builds the object of an item."""
        return cls(
            id=item.answer.id,
            answer=LoggedAnswerObject.of(item.answer),
            shadow=None if item.shadow is None else LoggedAnswerObject.of(item.shadow),
            disagreement=item.is_disputed,
        )


class CreateFromAnswers(RequestBody):
    """A dataset of reviewed answers."""

    parent: Annotated[Text | None, Field(max_length=64, description="Id of the file that the new one is a version of.")] = None
    include_parent_rows: Annotated[
        bool, Field(description="Whether the parent's rows are taken over; those with a reviewed question give way to it.")
    ] = True
    model: Annotated[Text | None, Field(max_length=110, description="Only answers of this name that was asked for.")] = None
    adapter: Annotated[Text | None, Field(max_length=110, description="Only answers of this adapter.")] = None
    reviewed_since: _Time | None = None
    reviewed_until: _Time | None = None
    filename: Annotated[Text, Field(min_length=1, max_length=200)] = "reviewed.jsonl"
    purpose: Annotated[Literal["fine-tune", "evals"] | None, Field(description="None: the parent's, else `fine-tune`.")] = None

    model_config = RequestBody.model_config | {
        "json_schema_extra": {"examples": [{"parent": "file-1f…", "model": "telecom@production", "filename": "telecom-2.jsonl"}]}
    }
