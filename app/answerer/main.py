"""The answerer process: a small app of its own over the engine; listens for the api only."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from app.answerer.room import EngineRoom
from app.answerer.schemas import Answered, AnsweredCandidate, AnsweredCode, Answers, Ask, Health
from app.blobs.local import LocalBlobStore
from app.http.context import RequestContext
from app.http.errors import install_error_handlers
from app.logs import configure_logs
from app.ml.engine.answering import EngineAnswer
from app.ml.engine.decoding import DecodedAnswer
from app.ml.model_store import ModelStore
from app.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """Builds the answerer's app; the base model loads once it starts."""
    settings = settings or Settings()
    room = EngineRoom(
        ModelStore(settings.models_dir, settings.base_models),
        LocalBlobStore(settings.blobs_dir),
        base_model=settings.base_model,
        max_pending=settings.max_pending_answers,
        threads=settings.threads,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logs(settings.log_format, process="answerer")
        room.start_loading()
        yield
        room.close()

    app = FastAPI(title="Dianda answerer", lifespan=lifespan, openapi_url=None, max_body_size=64 * 1024 * 1024)
    app.add_middleware(RequestContext)
    install_error_handlers(app)

    @app.post("/answer")
    async def answer(request: Request, ask: Ask) -> Answers:
        """Answers questions with one adapter, or with the base model."""
        answers = await room.answer(
            ask.questions, base_model=ask.base_model, checksum=ask.adapter_checksum, alternatives=ask.alternatives
        )
        return Answers(results=[_answered(one) for one in answers])

    @app.get("/health")
    async def health() -> JSONResponse:
        """Says whether the base model is in memory."""
        missing = room.missing()
        status, message = missing or ("ready", "")
        body = Health(status=status, message=message, base_model=room.base_model, device=room.device)
        return JSONResponse(body.model_dump(), status_code=503 if missing else 200)

    @app.get("/metrics")
    def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _answered(answer: EngineAnswer) -> Answered:
    return Answered(
        best=_candidate(answer.best, answer.in_vocabulary),
        alternatives=[_candidate(other, (True,) * len(other.codes)) for other in answer.alternatives],
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
    )


def _candidate(answer: DecodedAnswer, in_vocabulary: tuple[bool, ...]) -> AnsweredCandidate:
    return AnsweredCandidate(
        codes=[
            AnsweredCode(code=code, confidence=confidence, in_vocabulary=known)
            for code, confidence, known in zip(answer.codes, answer.code_confidences, in_vocabulary, strict=True)
        ],
        confidence=answer.confidence,
    )
