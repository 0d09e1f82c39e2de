"""The answerer process: a small app of its own over the engine; listens for the api only."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import orjson
from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from app.answerer.room import EngineRoom
from app.answerer.schemas import Ask, Health, ResumeOrder, SuspendOrder
from app.answers.backend import AnswerResult, Candidate, ConfidentCode
from app.blobs.opening import open_blobs
from app.http.context import RequestContext
from app.http.direct_route import DirectRoute
from app.http.errors import install_error_handlers
from app.logs import configure_logs
from app.ml.card_shares import ANSWERING_SHARE
from app.ml.codes import AnswerMode, DecideBy
from app.ml.engine.asks import EngineAnswer
from app.ml.engine.decoding import DecodedAnswer
from app.ml.model_store import ModelStore
from app.settings import Settings

# Shorter than the worker waits for a reply.
_SUSPEND_WAIT_S = 3.0


class Room(Protocol):
    """What this app needs of an `EngineRoom`; the benchmark of HTTP puts another in its place."""

    @property
    def base_model(self) -> str:
        """Name of the base model."""
        ...

    @property
    def device(self) -> dict[str, object] | None:
        """The device's facts, once the model is in memory."""
        ...

    def missing(self) -> tuple[str, str] | None:
        """Returns None when ready, else (`loading`, `suspended` or `failed`, what to do)."""
        ...

    @property
    def pause(self) -> str | None:
        """What a pause means to askers; None while there is none."""
        ...

    async def suspend(self, holder: str, *, lease_s: float, wait_s: float) -> bool:
        """Leaves the card; returns whether it is free."""
        ...

    def resume(self, holder: str) -> None:
        """Takes the card back."""
        ...

    def start_loading(self) -> None:
        """Begins to load."""
        ...

    async def answer(
        self,
        questions: Sequence[str],
        *,
        base_model: str,
        checksum: str | None,
        alternatives: int,
        mode: AnswerMode = "closed",
        precision: float | None = None,
        decide_by: DecideBy = "answer",
        deadline_s: float | None = None,
    ) -> list[EngineAnswer]:
        """Answers questions, in order; cancelled when the asker goes away."""
        ...

    def close(self) -> None:
        """Ends."""
        ...


def create_app(settings: Settings | None = None, *, room: Room | None = None) -> FastAPI:
    """Builds the answerer's app; the base model loads once it starts."""
    settings = settings or Settings()
    engine_room: Room = room or EngineRoom(
        ModelStore(settings.models_dir, settings.base_models),
        open_blobs(settings.blobs_url, settings.blobs_dir),
        base_model=settings.base_model,
        max_pending=settings.max_pending_answers,
        threads=settings.threads,
        adapter_gib=settings.adapter_memory_gib,
        memory_limit_gib=settings.answerer_memory_gib,
        card_share=ANSWERING_SHARE if settings.card_policy == "share" else None,
        answers_on_cpu=settings.paused_answers == "cpu",
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logs(settings.log_format, process="answerer")
        engine_room.start_loading()
        yield
        engine_room.close()

    app = FastAPI(title="Dianda answerer", lifespan=lifespan, openapi_url=None, max_body_size=64 * 1024 * 1024)
    app.add_middleware(RequestContext, quiet_routes=("/answer",))
    install_error_handlers(app)

    async def answer(request: Request, body: Ask) -> Response:
        """Answers questions with one adapter, or with the base model."""
        answers = await engine_room.answer(
            body.questions,
            base_model=body.base_model,
            checksum=body.adapter_checksum,
            alternatives=body.alternatives,
            mode=body.mode,
            precision=body.precision,
            decide_by=body.decide_by,
            deadline_s=body.deadline_s,
        )
        return Response(orjson.dumps({"results": [_result(one) for one in answers]}), media_type="application/json")

    app.router.routes.append(DirectRoute("/answer", answer, methods=["POST"]))

    @app.post("/suspend")
    async def suspend(order: SuspendOrder) -> dict[str, bool]:
        """Leaves the card to a worker's jobs; asked again and again, which renews the lease."""
        # The worker must hear in time to renew the lease.
        wait_s = min(_SUSPEND_WAIT_S, order.lease_s / 4)
        is_free = await engine_room.suspend(order.holder, lease_s=order.lease_s, wait_s=wait_s)
        return {"is_card_free": is_free}

    @app.post("/resume")
    async def resume(order: ResumeOrder) -> dict[str, bool]:
        """Takes the card back once no other worker wants it."""
        engine_room.resume(order.holder)
        return {"is_paused": engine_room.pause is not None}

    @app.get("/health")
    async def health() -> JSONResponse:
        """Says whether the base model is in memory; leaving the card to a job is no illness."""
        missing = engine_room.missing()
        status, message = missing or ("ready", "")
        body = Health(
            status=status,
            message=message,
            base_model=engine_room.base_model,
            device=engine_room.device,
            pause=engine_room.pause,
        )
        return JSONResponse(body.model_dump(), status_code=200 if status in ("ready", "suspended") else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _result(answer: EngineAnswer) -> AnswerResult:
    return AnswerResult(
        best=_candidate(answer.best, answer.in_vocabulary),
        alternatives=tuple(
            _candidate(other, in_vocabulary)
            for other, in_vocabulary in zip(answer.alternatives, answer.alternatives_in_vocabulary, strict=True)
        ),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        passes=answer.passes,
        calibrated=answer.calibrated,
        out_of_scope=answer.out_of_scope,
        precision_threshold=answer.precision_threshold,
    )


def _candidate(answer: DecodedAnswer, in_vocabulary: tuple[bool, ...]) -> Candidate:
    return Candidate(
        codes=tuple(
            ConfidentCode(code, confidence, known)
            for code, confidence, known in zip(answer.codes, answer.code_confidences, in_vocabulary, strict=True)
        ),
        confidence=answer.confidence,
    )
