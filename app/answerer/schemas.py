"""What the answerer is asked, with its limits; it replies with `app.answers.backend.AnswerResult`s."""

from pydantic import BaseModel, ConfigDict, Field

from app.ml.codes import AnswerMode, DecideBy


class Ask(BaseModel):
    """An `app.answers.backend.AnswerRequest`: questions for the base model, or for an adapter of it."""

    model_config = ConfigDict(extra="forbid")

    questions: list[str] = Field(min_length=1, max_length=1000)
    base_model: str
    adapter_checksum: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    alternatives: int = Field(ge=0, le=7)
    mode: AnswerMode = "closed"
    precision: float | None = Field(default=None, ge=0.5, le=0.999)
    decide_by: DecideBy = "answer"
    deadline_s: float | None = Field(default=None, gt=0)


class SuspendOrder(BaseModel):
    """A worker's wish to have the card for its jobs."""

    model_config = ConfigDict(extra="forbid")

    holder: str = Field(min_length=1, max_length=200)
    lease_s: float = Field(gt=0, le=3600)


class ResumeOrder(BaseModel):
    """The end of that wish."""

    model_config = ConfigDict(extra="forbid")

    holder: str = Field(min_length=1, max_length=200)


class Health(BaseModel):
    """`ready`, `loading`, `suspended` or `failed`, and what to do."""

    status: str
    message: str
    base_model: str
    device: dict[str, object] | None = None
    pause: str | None = None
    """What a pause means to askers, while a job has the card."""
