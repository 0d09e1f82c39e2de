"""`/answer`, `/answer/batch`, `/v1/chat/completions`."""

import time
from functools import partial
from operator import attrgetter

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
    Wishes,
)
from app.answers.service import Answered, AnswerService
from app.errors import InvalidInput
from app.http.direct_route import DirectRoute
from app.http.errors import ERROR_RESPONSES
from app.http.turns import Turns

_ANSWERS = Counter("dianda_answers_total", "Questions answered, by the reason for a fallback (none: no fallback).", ["fallback"])
_SECONDS = Histogram("dianda_answer_seconds", "Seconds from a question's arrival to its answer.")
_PASSES = Histogram(
    "dianda_answer_passes", "Forward passes of an answer, where the backend says.", buckets=(1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30)
)
PATHS = ("/answer", "/answer/batch", "/v1/chat/completions")


def make_router(*, turns: Turns) -> APIRouter:
    """Builds the routes, which share the turns."""
    route_class = partial(DirectRoute, turns=turns)
    router = APIRouter(
        tags=["answers"],
        responses=ERROR_RESPONSES,
        route_class=route_class,  # type: ignore[arg-type]
        # Not included into the app, which would see to it.
        generate_unique_id_function=attrgetter("name"),
    )

    @router.post("/answer")
    async def answer_question(request: Request, body: AskOne) -> AnswerObject:
        """Answers one question with codes of the adapter's vocabulary, each with a confidence."""
        (answered,) = await _answer(request, [body.question], param="question", model=body.model, wishes=body)
        return answered.answer

    @router.post("/answer/batch")
    async def answer_batch(request: Request, body: AskMany) -> AnswerList:
        """Answers several questions with one model, in order."""
        answered = await _answer(request, body.questions, param="questions.{}", model=body.model, wishes=body)
        return AnswerList(data=[one.answer for one in answered])

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses={200: {"content": {"text/event-stream": {}}}})
    async def chat(request: Request, body: ChatRequest) -> ChatCompletion | StreamingResponse:
        """Answers the last user message, for any OpenAI client; a stream brings the whole answer in one piece."""
        questions = [message.content for message in body.messages if message.role == "user"]
        if not questions:
            raise InvalidInput("There is no user message to answer.", param="messages")
        (answered,) = await _answer(request, [questions[-1]], param="messages", model=body.model, wishes=body)
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

    return router


async def _answer(request: Request, questions: list[str], *, param: str, model: str | None, wishes: Wishes) -> list[Answered]:
    service: AnswerService = request.app.state.answers
    answered = await service.answer(questions, param=param, model=model, wishes=wishes)
    for one in answered:
        answer = one.answer
        _ANSWERS.labels(answer.fallback.reason or "none").inc()
        _SECONDS.observe(answer.latency_ms / 1000)
        if answer.passes:
            _PASSES.observe(answer.passes)
    return answered
