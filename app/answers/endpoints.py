"""`/answer`, `/answer/batch`, `/v1/chat/completions`."""

import time

from fastapi import APIRouter, Request
from prometheus_client import Counter, Histogram
from starlette.responses import StreamingResponse

from app.answers.chat_stream import chat_chunks
from app.answers.schemas import (
    AnswerList,
    AnswerObject,
    AskMany,
    AskOne,
    ChatChoice,
    ChatCompletion,
    ChatReply,
    ChatRequest,
    ChatUsage,
)
from app.answers.service import AnswerService
from app.errors import InvalidInput
from app.http.errors import ERROR_RESPONSES

router = APIRouter(tags=["answers"], responses=ERROR_RESPONSES)
_ANSWERS = Counter("dianda_answers_total", "Questions answered.", ["fallback"])
_SECONDS = Histogram("dianda_answer_seconds", "Seconds from a question's arrival to its answer.")


def _service(request: Request) -> AnswerService:
    service: AnswerService = request.app.state.answers
    return service


def _count(answers: list[AnswerObject]) -> None:
    for answer in answers:
        _ANSWERS.labels(str(answer.fallback.triggered).lower()).inc()
        _SECONDS.observe(answer.latency_ms / 1000)


@router.post("/answer")
async def answer_question(request: Request, body: AskOne) -> AnswerObject:
    """Answers one question with codes of the adapter's vocabulary, each with a confidence."""
    (answered,) = await _service(request).answer(
        [body.question], param="question", model=body.model, alternatives=body.alternatives, threshold=body.threshold
    )
    _count([answered.answer])
    return answered.answer


@router.post("/answer/batch")
async def answer_batch(request: Request, body: AskMany) -> AnswerList:
    """Answers several questions with one model, in order."""
    answered = await _service(request).answer(
        body.questions, param="questions.{}", model=body.model, alternatives=body.alternatives, threshold=body.threshold
    )
    answers = [one.answer for one in answered]
    _count(answers)
    return AnswerList(data=answers)


@router.post("/v1/chat/completions", response_model=ChatCompletion)
async def chat(request: Request, body: ChatRequest) -> ChatCompletion | StreamingResponse:
    """Answers the last user message, for any OpenAI client; a stream brings the whole answer in one piece."""
    questions = [message.content for message in body.messages if message.role == "user"]
    if not questions:
        raise InvalidInput("There is no user message to answer.", param="messages")
    (answered,) = await _service(request).answer(
        [questions[-1]], param="messages", model=body.model, alternatives=0, threshold=None
    )
    _count([answered.answer])
    completion = ChatCompletion(
        id=f"chatcmpl-{answered.answer.id}",
        created=int(time.time()),
        model=body.model,
        choices=[ChatChoice(message=ChatReply(content=answered.answer.answer))],
        usage=ChatUsage(
            prompt_tokens=answered.prompt_tokens,
            completion_tokens=answered.completion_tokens,
            total_tokens=answered.prompt_tokens + answered.completion_tokens,
        ),
        dianda=answered.answer,
    )
    if body.stream:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(iter(chat_chunks(completion)), media_type="text/event-stream", headers=headers)
    return completion
