"""The evaluation object of the HTTP dialect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.evaluations.models import Evaluation
from app.http.schemas import RequestBody, Text
from app.jobs.models import Job
from app.jobs.schemas import JobFailure


class CreateEvaluation(RequestBody):
    """A model and the file to hold it against."""

    model: Annotated[Text, Field(max_length=110, description="Base model, adapter or alias.")]
    file: Annotated[Text, Field(max_length=64)]
    max_rows: Annotated[int, Field(ge=1)] | None = None

    model_config = RequestBody.model_config | {
        "json_schema_extra": {"examples": [{"model": "telecom@production", "file": "file-0123456789abcdef01234567"}]}
    }


class EvaluationObject(BaseModel):
    """An evaluation with its metrics once it has succeeded."""

    id: str
    object: Literal["evaluation"] = "evaluation"
    created_at: int
    finished_at: int | None
    status: str
    model: str
    adapter: str | None
    base_model: str
    file: str
    job: str
    progress: dict[str, Any] | None
    metrics: dict[str, Any] | None
    """rows, exact_match, ordered_match, set_f1, micro_f1, invalid_rate: all rates in 0..1."""
    error: JobFailure | None

    @classmethod
    def of(cls, evaluation: Evaluation, job: Job) -> "EvaluationObject":
        """Builds the object of the two rows."""
        return cls(
            id=evaluation.id,
            created_at=int(evaluation.created_at),
            finished_at=None if job.finished_at is None else int(job.finished_at),
            status=job.status,
            model=evaluation.model,
            adapter=job.adapter_id,
            base_model=job.base_model,
            file=evaluation.file_id,
            job=job.id,
            progress=job.progress,
            metrics=evaluation.metrics,
            error=JobFailure.find(job),
        )
