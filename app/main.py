"""The API process: its composition root."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from operator import attrgetter

import structlog
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select

from app.access.endpoints import router as access_router
from app.access.guard import Guard
from app.access.key_ring import KeyRing
from app.access.openapi import describe_access
from app.access.retention import AuditRetention
from app.access.route_policy import RoutePolicy
from app.access.sessions import Sessions, session_secret
from app.adapters.endpoints import router as models_router
from app.answers.backend import AnswerBackend
from app.answers.backends.answerer import AnswererBackend
from app.answers.backends.answerers import AnswererPool
from app.answers.backends.openai_upstream import OpenAIUpstreamBackend, UpstreamLimits
from app.answers.backends.prompted_models import PromptedModels
from app.answers.code_texts import CodeTexts
from app.answers.endpoints import PATHS as ANSWER_PATHS
from app.answers.endpoints import make_router as make_answers_router
from app.answers.log import AnswerLog
from app.answers.log_endpoints import router as answer_log_router
from app.answers.model_names import ModelNames
from app.answers.pauses import Pauses
from app.answers.retention import AnswerRetention
from app.answers.review_endpoints import router as reviews_router
from app.answers.service import AnswerLimits, AnswerService
from app.blobs.opening import open_blobs
from app.blobs.store import BlobStore
from app.codebook.body import MAX_BYTES as CODEBOOK_BODY_BYTES
from app.codebook.endpoints import router as codebook_router
from app.console.codebook_pages import PREFIX as CONSOLE_CODEBOOK_PATH
from app.console.dataset_pages import UPLOAD_PATH as CONSOLE_UPLOAD_PATH
from app.console.endpoints import ConsoleLimits, install_console
from app.console.refusals import refuse_page
from app.datasets import endpoints as datasets
from app.datasets.split_endpoints import router as splits_router
from app.db.engine import make_engine
from app.db.migrating import is_current
from app.db.unit_of_work import read_only
from app.evaluations import endpoints as evaluations
from app.experiments import endpoints as experiments
from app.experiments import repository as experiment_rows
from app.experiments.service import advance_all
from app.exports import endpoints as exports
from app.http import health
from app.http.context import RequestContext
from app.http.database_errors import install_database_error_handlers
from app.http.early_refusal import EarlyRefusal
from app.http.errors import install_error_handlers
from app.http.limits import RequestLimits
from app.http.loop_lag import LoopLag
from app.http.strict_json import StrictJson
from app.http.turns import Turns
from app.jobs import endpoints as jobs
from app.jobs import repository as job_rows
from app.jobs.event_stream import EventStreams
from app.jobs.gauges import JobGauges
from app.jobs.queue import CeleryDoorbell, Doorbell, make_celery
from app.jobs.retention import JobRetention
from app.jobs.sweeping import sweep
from app.logs import configure_logs
from app.ml.model_store import ModelStore, how_to_import
from app.promotions import gate
from app.promotions.endpoints import router as promotions_router
from app.route_scopes import ROUTE_SCOPES
from app.settings import Settings

_log = structlog.get_logger()
# Requests of one process that may hold a database connection at once; the rest wait without a thread.
_DATABASE_TURNS = 20


def create_app(
    settings: Settings | None = None,
    *,
    answer_backend: AnswerBackend | None = None,
    doorbell: Doorbell | None = None,
) -> FastAPI:
    """Builds the API; tests pass their own settings, answer backend and doorbell."""
    is_own_process = settings is None
    settings = settings or Settings()
    engine = make_engine(settings.resolved_database_url)
    store = ModelStore(settings.models_dir, settings.base_models)
    bell = doorbell or CeleryDoorbell(make_celery(settings.resolved_broker_url))
    names = ModelNames(engine, store)
    blobs = open_blobs(settings.blobs_url, settings.blobs_dir)
    backend = answer_backend or build_answer_backend(settings, store, blobs, names)
    code_texts = CodeTexts(engine)
    pauses = Pauses(engine) if settings.card_policy == "pause_serving" else None
    lag = LoopLag()
    ring = KeyRing(engine, requests_per_minute=settings.key_requests_per_minute, max_concurrent=settings.key_max_concurrent)
    sessions = Sessions(session_secret(settings.data_dir), ring)
    answer_log = AnswerLog(engine, settings.answer_log_questions) if settings.answer_log else None
    retention = AnswerRetention(engine, days=settings.answer_log_days, max_rows=settings.answer_log_max_rows)
    audit_retention = AuditRetention(engine, days=settings.audit_log_days)
    job_retention = JobRetention(engine, blobs, settings.work_dir, days=settings.checkpoint_days)
    uploads_dir = settings.data_dir / "uploads"
    uploads_dir.mkdir(parents=True, exist_ok=True)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logs(settings.log_format, process="api")
        if is_own_process:
            # What is there now stays for ever: each look of the garbage collector at all of it would hold up every request.
            gc.collect()
            gc.freeze()
        if not settings.asks_for_keys:
            _log.warning("no_api_keys_asked_for", host=settings.host, remedy="Set DIANDA_AUTH=on.")
        app.state.database_turns = CapacityLimiter(_DATABASE_TURNS)
        steps = {
            "sweep": lambda: sweep(engine, bell),
            "experiments": lambda: advance_all(engine, store=store, bell=bell, max_unfinished=settings.max_queued_jobs),
            "answer_retention": retention.enforce,
            "audit_retention": audit_retention.enforce,
            "job_retention": job_retention.enforce,
        }
        watching = [asyncio.create_task(lag.watch()), asyncio.create_task(ring.watch())]
        upkeep = asyncio.create_task(_upkeep(steps, settings.sweep_interval_s))
        async with answer_log.writing() if answer_log is not None else nullcontext():
            yield
            # Before the log's end: what goes on beside the answers still writes into it.
            await app.state.answers.close()
        upkeep.cancel()
        for watch in watching:
            watch.cancel()
        await backend.close()
        engine.dispose()

    app = FastAPI(
        title="Dianda 电答",
        summary="Customer questions in, category codes out.",
        version="0.1.0",
        lifespan=lifespan,
        # The console has pages of both kinds that load nothing from elsewhere.
        docs_url=None,
        redoc_url=None,
        form_limits={"max_files": 1, "max_fields": 16},
        # What generated clients call their methods.
        generate_unique_id_function=attrgetter("name"),
    )
    app.state.engine = engine
    app.state.key_ring = ring
    app.state.sessions = sessions
    app.state.blobs = blobs
    app.state.model_store = store
    app.state.bell = bell
    app.state.model_names = names
    app.state.event_streams = EventStreams(engine, max_streams=settings.max_event_streams)
    app.state.code_texts = code_texts
    app.state.uploads_dir = uploads_dir
    app.state.answers = AnswerService(
        backend,
        names,
        code_texts,
        AnswerLimits(settings.max_question_chars, settings.max_batch_questions, deadline_s=settings.answer_timeout_s),
        default_model=settings.base_model,
        log=answer_log,
        pauses=pauses,
    )
    # Who may need a file, an adapter, an evaluation: asked before a deletion, so that datasets need not know jobs.
    app.state.file_users = (job_rows.find_unfinished_user_of_file, experiment_rows.find_unfinished_user_of_file)
    app.state.adapter_users = (job_rows.find_unfinished_user_of_adapter, experiment_rows.find_unfinished_user_of_adapter)
    app.state.evaluation_users = (experiment_rows.find_user_of_evaluation, gate.find_user_of_evaluation)
    app.add_middleware(StrictJson)
    app.add_middleware(
        RequestLimits,
        limit_bytes=settings.max_body_bytes,
        limits_of_paths={
            "/v1/files": settings.max_upload_bytes + datasets.MULTIPART_OVERHEAD_BYTES,
            CONSOLE_UPLOAD_PATH: settings.max_upload_bytes + datasets.MULTIPART_OVERHEAD_BYTES,
            "/v1/codebook": CODEBOOK_BODY_BYTES,
            CONSOLE_CODEBOOK_PATH: CODEBOOK_BODY_BYTES + datasets.MULTIPART_OVERHEAD_BYTES,
        },
    )
    # From here on in this order, so that they stand around everything: a request has its id before it is turned away.
    app.add_middleware(
        Guard,
        asks=settings.asks_for_keys,
        trusts_proxies=settings.auth == "off",
        ring=ring,
        policy=RoutePolicy(ROUTE_SCOPES),
        pages=(sessions, refuse_page),
    )
    app.add_middleware(RequestContext, quiet_routes=ANSWER_PATHS)
    turns = Turns(settings.max_concurrent_answers, lag=lag)
    app.add_middleware(EarlyRefusal, turns=turns, paths=ANSWER_PATHS)
    install_error_handlers(app)
    install_database_error_handlers(app)
    registry = CollectorRegistry()
    registry.register(JobGauges(engine, lease_s=settings.lease_s, data_dir=settings.data_dir))
    # The app's own routes and in front, where they are found first.
    app.router.routes[:0] = make_answers_router(turns=turns).routes
    readiness = _readiness(settings, engine, store, bell, backend)
    app.include_router(access_router)
    app.include_router(answer_log_router)
    app.include_router(reviews_router)
    app.include_router(health.make_router(readiness, registry))
    app.include_router(datasets.make_router(max_upload_bytes=settings.max_upload_bytes))
    app.include_router(splits_router)
    app.include_router(codebook_router)
    app.include_router(
        jobs.make_router(
            max_unfinished=settings.max_queued_jobs,
            answerer_base_model=settings.base_model,
            memory_limit_gib=settings.memory_limit_gib,
            default_preset=settings.resolved_default_preset,
        )
    )
    app.include_router(models_router)
    app.include_router(promotions_router)
    app.include_router(evaluations.make_router(max_unfinished=settings.max_queued_jobs))
    app.include_router(
        experiments.make_router(
            max_unfinished=settings.max_queued_jobs,
            memory_limit_gib=settings.memory_limit_gib,
            default_preset=settings.resolved_default_preset,
        )
    )
    app.include_router(exports.make_router(max_unfinished=settings.max_queued_jobs))
    install_console(
        app,
        ConsoleLimits(
            base_model=settings.base_model,
            max_upload_bytes=settings.max_upload_bytes,
            max_question_chars=settings.max_question_chars,
            max_unfinished_jobs=settings.max_queued_jobs,
            memory_limit_gib=settings.memory_limit_gib,
            default_preset=settings.resolved_default_preset,
            keeps_questions=settings.answer_log and settings.answer_log_questions == "text",
        ),
        readiness,
    )
    describe_access(app, ROUTE_SCOPES)
    return app


def build_answer_backend(settings: Settings, store: ModelStore, blobs: BlobStore, names: ModelNames) -> AnswerBackend:
    """Returns the backend that the deployment chose."""
    match settings.answer_backend:
        case "answerer":
            answerers = {url: AnswererBackend(url, timeout_s=settings.answer_timeout_s) for url in settings.answerer_urls}
            only = next(iter(answerers.values()))
            return only if len(answerers) == 1 else AnswererPool(answerers, timeout_s=settings.answer_timeout_s)
        case "openai_upstream":
            key = settings.upstream_api_key
            return OpenAIUpstreamBackend(
                settings.upstream_url,
                UpstreamLimits(
                    timeout_s=settings.answer_timeout_s,
                    max_concurrent=settings.upstream_max_concurrent,
                    max_pending=settings.max_pending_answers,
                ),
                api_key=None if key is None else key.get_secret_value(),
                models=settings.upstream_models,
                structured=settings.upstream_structured,
                prompted_models=PromptedModels(store, blobs),
                find_checksum=names.find_checksum,
            )


def _readiness(
    settings: Settings, engine: Engine, store: ModelStore, bell: Doorbell, backend: AnswerBackend
) -> health.ReadinessChecks:
    def database() -> str | None:
        with read_only(engine) as session:
            session.execute(select(1))
        return None if is_current(engine) else "The database's schema is not current. Run: dianda migrate"

    def base_model() -> str | None:
        name = settings.base_model
        if store.find(name) is not None:
            return None
        source = store.listed().get(name)
        if source is None:
            return f"Base model {name!r} is not on the operator's list. Run: dianda models add {name} SOURCE"
        return how_to_import(name, source)

    def broker() -> str | None:
        return None if bell.waiting() is not None else "The broker does not answer: jobs wait until it does."

    def worker() -> str | None:
        with read_only(engine) as session:
            alive = job_rows.live_workers(session, within_s=settings.lease_s)
        return None if alive else "No worker gives a sign of life: jobs wait. Start one with: dianda worker"

    checks = health.ReadinessChecks(asks_for_keys=settings.asks_for_keys)
    checks.add("database", database, required=True)
    checks.add("base_model", base_model, required=True)
    checks.add_async("answerer", backend.health, required=True)
    checks.add("broker", broker, required=False)
    checks.add("worker", worker, required=False)
    if settings.card_policy == "pause_serving":
        checks.add_async("card", backend.find_pause, required=False)
    return checks


async def _upkeep(steps: Mapping[str, Callable[[], object]], interval_s: float) -> None:
    while True:
        for name, step in steps.items():
            try:
                await run_sync(step)
            except Exception:
                _log.exception("upkeep_failed", step=name)
        await asyncio.sleep(interval_s)
