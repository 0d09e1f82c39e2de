"""What the api and the answerer say to each other."""

from pydantic import BaseModel, ConfigDict, Field


class Ask(BaseModel):
    """Questions for the base model, or for an adapter of it."""

    model_config = ConfigDict(extra="forbid")

    questions: list[str] = Field(min_length=1, max_length=1000)
    base_model: str
    adapter_checksum: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    alternatives: int = Field(ge=0, le=7)


class AnsweredCode(BaseModel):
    """A code with its confidence."""

    code: str
    confidence: float
    in_vocabulary: bool


class AnsweredCandidate(BaseModel):
    """A complete answer."""

    codes: list[AnsweredCode]
    confidence: float


class Answered(BaseModel):
    """The answer to one question."""

    best: AnsweredCandidate
    alternatives: list[AnsweredCandidate]
    prompt_tokens: int
    completion_tokens: int


class Answers(BaseModel):
    """The answers to all questions of an `Ask`, in order."""

    results: list[Answered]


class Health(BaseModel):
    """`ready`, `loading` or `failed`, and what to do."""

    status: str
    message: str
    base_model: str
    device: dict[str, object] | None = None
