"""The evaluation object of the HTTP dialect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.evaluations.models import Evaluation
from app.evaluations.service import EvaluationPlan
from app.http.schemas import RequestBody, Text
from app.jobs.models import Job
from app.jobs.schemas import JobFailure
from app.ml.codes import DecideBy
from app.ml.evaluated_rows import EvaluatedRow


class CreateEvaluation(RequestBody):
    """A model and the file to hold it against."""

    model: Annotated[Text, Field(max_length=110, description="Base model, adapter, alias, or a checkpoint (`ftckpt-…`).")]
    file: Annotated[Text, Field(max_length=64)]
    max_rows: Annotated[int, Field(ge=1)] | None = None
    threshold: (
        Annotated[
            float, Field(ge=0, le=1, description="Below this confidence a row counts as handed over. Not beside `precision`.")
        ]
        | None
    ) = None
    precision: (
        Annotated[float, Field(gt=0, lt=1, description="Wished share of right answers, as for /answer. Not beside `threshold`.")]
        | None
    ) = None
    decide_by: Annotated[
        DecideBy,
        Field(
            description="What is best among the answers of the widest beam, as for /answer: `answer`, `set` or `expected_f1`; "
            "the last two not beside `precision`. A gate takes evaluations by `answer` alone."
        ),
    ] = "answer"

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
    checkpoint: str | None
    base_model: str
    file: str
    max_rows: int | None
    threshold: float | None
    precision: float | None
    decide_by: DecideBy
    job: str
    progress: dict[str, Any] | None
    """`step` of `total_steps`, in rows."""
    metrics: dict[str, Any] | None
    """What `app.ml.evaluation_metrics.measure` returns, and how the rows were answered: all rates in 0..1."""
    error: JobFailure | None

    @classmethod
    def of(cls, evaluation: Evaluation, job: Job) -> "EvaluationObject":
        """Builds the object of the two rows."""
        plan = EvaluationPlan.from_spec(job.spec)
        return cls(
            id=evaluation.id,
            created_at=int(evaluation.created_at),
            finished_at=None if job.finished_at is None else int(job.finished_at),
            status=job.status,
            model=evaluation.model,
            adapter=job.adapter_id,
            checkpoint=plan.checkpoint,
            base_model=job.base_model,
            file=evaluation.file_id,
            max_rows=plan.max_rows,
            threshold=plan.threshold,
            precision=plan.precision,
            decide_by=plan.decide_by,
            job=job.id,
            progress=job.progress,
            metrics=evaluation.metrics,
            error=JobFailure.find(job),
        )


class EvaluationRowObject(BaseModel):
    """One answered row."""

    id: str
    """The row's number, as a page's cursor."""
    object: Literal["evaluation.row"] = "evaluation.row"
    row: int
    """1-based position in the file."""
    question: str
    expected: list[str]
    given: list[str]
    match: bool
    """Whether the given set of codes is the expected one; `ordered_match` compares the order, too."""
    ordered_match: bool
    set_f1: float
    confidence: float
    code_confidences: list[float]
    in_vocabulary: bool
    invalid: bool
    fallback: str | None
    """Why the product would hand this question over to a human."""
    latency_ms: float
    passes: int
    slices: dict[str, str]

    @classmethod
    def of(cls, row: EvaluatedRow) -> "EvaluationRowObject":
        """Builds the object of a row."""
        return cls(id=str(row.row), **row.to_mapping())
