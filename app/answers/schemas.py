"""`/answer` and the chat objects of the HTTP dialect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.answers.fallback import FallbackReason
from app.answers.variants import Variant
from app.http.schemas import RequestBody, Text
from app.ml.codes import AnswerMode, DecideBy

_ModelName = Annotated[Text, Field(max_length=110, description="Alias, adapter or base model; none: the deployment's own.")]
_Alternatives = Annotated[int, Field(ge=0, le=7, description="Other answers wanted; the beam is one wider.")]
_Threshold = Annotated[
    float, Field(ge=0, le=1, description="Below this confidence the answer is marked for a human. Not beside `precision`.")
]
_Precision = Annotated[
    float,
    Field(
        ge=0.5,
        le=0.999,
        description="Wanted share of right answers among those that are not marked for a human; the adapter's calibration "
        "gives the threshold. Not beside `threshold`.",
    ),
]
_Mode = Annotated[
    AnswerMode,
    Field(
        description="`closed`: codes of the adapter's vocabulary alone. `open_values`: also plain values that it does not list. "
        "`free`: whatever the model writes. What the vocabulary does not list has `in_vocabulary: false`."
    ),
]
_DecideBy = Annotated[
    DecideBy,
    Field(
        description="What is best among the answer and its `alternatives`. `answer`: the likeliest. `set`: the set of codes "
        "that is likeliest over all orders of its codes. `expected_f1`: the set that shares most with all of them. The last "
        "two need `alternatives`, go without `precision`, and are never `calibrated`."
    ),
]

_User = Annotated[
    Text,
    Field(
        max_length=200,
        description="Who asks, in your own words. Where an alias tries a candidate out, one user always gets the same one; "
        "without it, one question does. Not kept.",
    ),
]


class Wishes(RequestBody):
    """What an asker may wish of every answer."""

    alternatives: _Alternatives = 0
    threshold: _Threshold | None = None
    mode: _Mode = "closed"
    precision: _Precision | None = None
    decide_by: _DecideBy = "answer"
    user: _User | None = None


class AskOne(Wishes):
    """One question."""

    question: Annotated[Text, Field(min_length=1)]
    model: _ModelName | None = None

    model_config = RequestBody.model_config | {
        "json_schema_extra": {"examples": [{"question": "百度流量月包怎么取消", "model": "telecom@production", "threshold": 0.5}]}
    }


class AskMany(Wishes):
    """Several questions for one model."""

    questions: Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1)]
    model: _ModelName | None = None

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [{"questions": ["百度流量月包怎么取消", "智享天气预报多少钱"], "model": "telecom@production"}]
        }
    }


class CodeObject(BaseModel):
    """One code of an answer."""

    code: str
    category: str
    """The code book's, else the one that the code's name tells."""
    text: str | None = None
    """The code book's reply text; none if the book has none."""
    confidence: float
    in_vocabulary: bool


class AlternativeObject(BaseModel):
    """Another complete answer."""

    answer: str
    confidence: float


class FallbackObject(BaseModel):
    """Whether a human should take over, and why."""

    triggered: bool
    reason: FallbackReason | None


class AnswerObject(BaseModel):
    """The answer to one question."""

    id: str
    object: Literal["answer"] = "answer"
    answer: str
    codes: list[CodeObject]
    confidence: float
    calibrated: bool
    """Whether confidences were calibrated on held-out rows: then 0.9 is right nine times of ten."""
    alternatives: list[AlternativeObject]
    fallback: FallbackObject
    model: str
    adapter: str | None
    passes: int
    """Forward passes that the answer took; 0 where the backend does not say."""
    latency_ms: float
    variant: Variant | None = None
    """Whose answer it is where the alias tries a candidate out: `primary` (its own adapter's) or `candidate`."""


class AnswerList(BaseModel):
    """The answers to several questions, in order."""

    object: Literal["list"] = "list"
    data: list[AnswerObject]


class ChatMessage(RequestBody):
    """One message; the last user message is the question."""

    role: Literal["system", "user", "assistant", "developer"]
    content: Text
    name: Text | None = None


class ChatRequest(Wishes):
    """OpenAI's chat request, with our wishes (`extra_body`). Answers are greedy, so sampling fields do nothing."""

    model: _ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=100)]
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [{"model": "telecom@production", "messages": [{"role": "user", "content": "百度流量月包怎么取消"}]}]
        }
    }


class ChatReply(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = None


class ChatChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: ChatReply
    finish_reason: Literal["stop"] = "stop"
    logprobs: dict[str, Any] | None = None


class ChatUsage(BaseModel):
    """Tokens of the prompt and the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """OpenAI's chat completion, with our `dianda` beside it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    dianda: AnswerObject
    """The same answer with its codes and confidences."""
