"""The job, event and checkpoint objects of the HTTP dialect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue

from app.http.schemas import RequestBody, Text
from app.jobs.models import Checkpoint, Job, JobEvent


class Supervised(RequestBody):
    """Hyperparameters under LLaMA-Factory's names (`lora_rank`, `use_dora`, …), OpenAI's, and `preset`."""

    hyperparameters: dict[str, JsonValue] = Field(default_factory=dict, max_length=64)


class Method(RequestBody):
    """How to tune: supervised, with its hyperparameters."""

    type: Literal["supervised"] = "supervised"
    supervised: Supervised = Field(default_factory=Supervised)


class CreateJob(RequestBody):
    """OpenAI's request for a fine-tuning job."""

    model: Annotated[Text, Field(max_length=100, description="Name of a base model on the operator's list.")]
    training_file: Annotated[Text, Field(max_length=64)]
    validation_file: Annotated[Text, Field(max_length=64)] | None = None
    suffix: Annotated[Text, Field(max_length=64, description="Name of the adapter: `telecom` gives `telecom:1`.")] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    method: Method = Field(default_factory=Method)
    metadata: dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]] | None = Field(
        default=None, max_length=16
    )
    codebook_codes: Annotated[
        bool, Field(description="The adapter may also answer with the code book's codes of now that no training row shows.")
    ] = False

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {
                    "model": "gemma-3-270m",
                    "training_file": "file-0123456789abcdef01234567",
                    "suffix": "telecom",
                    "method": {"type": "supervised", "supervised": {"hyperparameters": {"preset": "quick", "n_epochs": 3}}},
                }
            ]
        }
    }


class JobFailure(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None

    @classmethod
    def find(cls, job: Job) -> "JobFailure | None":
        """Builds the object of a failed job; None for any other."""
        if job.error_code is None:
            return None
        return cls(code=job.error_code, message=job.error_message or "", param=job.error_param)


class JobObject(BaseModel):
    """OpenAI's fine-tuning job, with our `progress`, `queue_position`, `metrics`, `wish` and `attempts`."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: str
    error: JobFailure | None
    fine_tuned_model: str | None
    model: str
    organization_id: str = "dianda"
    result_files: list[str]
    result_file_names: dict[str, str]
    trained_tokens: int | None
    training_file: str | None
    validation_file: str | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    integrations: list[Any] | None = None
    metadata: dict[str, str]
    suffix: str | None
    spec: dict[str, Any]
    wish: str
    attempts: int
    progress: dict[str, Any] | None
    queue_position: int | None
    metrics: dict[str, Any] | None
    codebook_version: int | None = None
    """The code book whose codes the vocabulary takes in, if `codebook_codes` was asked."""

    @classmethod
    def of(cls, job: Job, *, queue_position: int | None = None, now: float | None = None) -> "JobObject":
        """Builds the object of a row; `now` gives a running job its estimated end."""
        remaining = (job.progress or {}).get("seconds_remaining")
        return cls(
            id=job.id,
            created_at=int(job.created_at),
            finished_at=None if job.finished_at is None else int(job.finished_at),
            estimated_finish=int(now + remaining) if now and remaining is not None and job.status == "running" else None,
            status=job.status,
            error=JobFailure.find(job),
            fine_tuned_model=job.adapter_id,
            model=job.base_model,
            result_files=list((job.result_file_ids or {}).values()),
            result_file_names=job.result_file_ids or {},
            trained_tokens=job.trained_tokens,
            training_file=job.training_file_id,
            validation_file=job.validation_file_id,
            hyperparameters=_openai_hyperparameters(job),
            method={"type": "supervised", "supervised": {"hyperparameters": job.hyperparameters}},
            seed=job.seed,
            metadata=job.user_metadata,
            suffix=job.suffix,
            spec=job.spec,
            wish=job.wish,
            attempts=job.attempts,
            progress=job.progress,
            queue_position=queue_position,
            metrics=job.metrics,
            codebook_version=job.codebook_version,
        )


class ServingObject(BaseModel):
    """Whether one kind of engine can answer with the result, and why."""

    engine: str
    can_serve: bool
    reason: str


class EstimateObject(BaseModel):
    """What a job would need; nothing was queued."""

    object: Literal["fine_tuning.job.estimate"] = "fine_tuning.job.estimate"
    spec: dict[str, Any]
    rows: int
    rows_left_out: int
    rows_truncated: int
    steps: int
    prompt_tokens_mean: float
    prompt_tokens_max: int
    answer_tokens_mean: float
    trainable_parameters: int
    peak_memory_gib: float
    minutes: float | None
    minutes_basis: str
    serving: list[ServingObject]


class EventObject(BaseModel):
    """OpenAI's job event, with our `number`."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any] | None
    number: int

    @classmethod
    def of(cls, event: JobEvent) -> "EventObject":
        """Builds the object of a row."""
        return cls(
            id=event_id(event.job_id, event.number),
            created_at=int(event.created_at),
            level=event.level,
            message=event.message,
            type=event.type,
            data=event.data,
            number=event.number,
        )


class CheckpointObject(BaseModel):
    """OpenAI's checkpoint object, with our `is_best`."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, Any]
    """`step` and `train_loss`; at an epoch's end also what the held-out rows said."""
    is_best: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, is_best: bool) -> "CheckpointObject":
        """Builds the object of a row."""
        return cls(
            id=checkpoint.id,
            created_at=int(checkpoint.created_at),
            fine_tuning_job_id=checkpoint.job_id,
            fine_tuned_model_checkpoint=checkpoint.id,
            step_number=checkpoint.step,
            metrics=checkpoint.metrics,
            is_best=is_best,
        )


def event_id(job_id: str, number: int) -> str:
    """Returns the id of a job's event."""
    return f"ftevent-{job_id.partition('-')[2]}-{number}"


def event_number(given: str) -> int | None:
    """Returns the number in an event's id, or None where it is no such id."""
    number = given.rpartition("-")[2]
    return int(number) if number.isdecimal() and len(number) < 10 else None


def _openai_hyperparameters(job: Job) -> dict[str, Any]:
    spec = job.spec
    if "num_train_epochs" not in spec:
        return {}
    batch_size = spec["per_device_train_batch_size"] * spec["gradient_accumulation_steps"]
    # OpenAI's type is a whole number.
    return {"n_epochs": max(1, round(spec["num_train_epochs"])), "batch_size": batch_size, "learning_rate_multiplier": 1.0}
