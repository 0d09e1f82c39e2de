"""`/v1/fine_tuning/jobs`: create, list, get, cancel, pause, resume, events, checkpoints."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import StreamingResponse

from app.access.dependencies import StillLetInDep
from app.errors import InvalidInput
from app.http.dependencies import AfterParam, BlobsDep, IdempotencyKeyParam, LimitParam, ReadingDep, StoreDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage
from app.jobs import events, repository, service
from app.jobs.estimates import estimate
from app.jobs.event_stream import EventStreams
from app.jobs.idempotency import CreationKey, create_once
from app.jobs.models import Job
from app.jobs.requests import new_job
from app.jobs.schemas import CheckpointObject, CreateJob, EstimateObject, EventObject, JobObject, event_number

_METADATA_PREFIX = "metadata["


def make_router(
    *, max_unfinished: int, answerer_base_model: str, memory_limit_gib: float | None, default_preset: str
) -> APIRouter:
    """Builds the routes; `memory_limit_gib`: what a training process may take, none: whatever its device has."""
    router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], responses=ERROR_RESPONSES)

    @router.post("", response_model=JobObject | EstimateObject)
    def create_job(
        request: Request,
        session: TransactionDep,
        store: StoreDep,
        blobs: BlobsDep,
        body: CreateJob,
        idempotency_key: IdempotencyKeyParam = None,
        dry_run: Annotated[bool, Query(description="Check and estimate; queue nothing.")] = False,
    ) -> JobObject | EstimateObject:
        """Queues a fine-tuning job. The same `Idempotency-Key` with the same body gives the same job.

        A spec that cannot work on its base model or data is refused with the field's name.
        `dry_run=true` checks every row too, and estimates steps, minutes and peak memory instead.
        """
        new = new_job(body, default_preset=default_preset)
        if dry_run:
            return estimate(
                session,
                new,
                store=store,
                blobs=blobs,
                answerer_base_model=answerer_base_model,
                memory_limit_gib=memory_limit_gib,
            )
        job = create_once(
            session,
            Job,
            CreationKey.find(idempotency_key, body),
            lambda: service.create_finetune(
                session,
                new,
                store=store,
                blobs=blobs,
                bell=request.app.state.bell,
                max_unfinished=max_unfinished,
                memory_limit_gib=memory_limit_gib,
            ),
        )
        return JobObject.of(job, queue_position=repository.queue_position(session, job))

    @router.get("")
    def list_jobs(request: Request, session: ReadingDep, after: AfterParam = None, limit: LimitParam = 20) -> ListPage[JobObject]:
        """Lists fine-tuning jobs, newest first; `metadata[key]=value` filters."""
        wanted = {
            key[len(_METADATA_PREFIX) : -1]: value
            for key, value in request.query_params.items()
            if key.startswith(_METADATA_PREFIX) and key.endswith("]")
        }
        rows, has_more = repository.list_page(session, kind=repository.FINETUNE, after=after, limit=limit, metadata=wanted)
        return ListPage.of([JobObject.of(row) for row in rows], has_more=has_more)

    @router.get("/{job_id}")
    def get_job(session: ReadingDep, job_id: str) -> JobObject:
        """Returns a job with its progress, place in the queue and metrics."""
        job = repository.get(session, job_id, kind=repository.FINETUNE)
        return JobObject.of(job, queue_position=repository.queue_position(session, job), now=repository.now(session))

    @router.post("/{job_id}/cancel")
    def cancel_job(session: TransactionDep, job_id: str) -> JobObject:
        """Cancels a job; a running one ends within seconds, without an adapter."""
        return JobObject.of(service.cancel(session, job_id, kind=repository.FINETUNE))

    @router.post("/{job_id}/pause")
    def pause_job(session: TransactionDep, job_id: str) -> JobObject:
        """Pauses a job; a running one checkpoints first."""
        return JobObject.of(service.pause(session, job_id))

    @router.post("/{job_id}/resume")
    def resume_job(request: Request, session: TransactionDep, job_id: str) -> JobObject:
        """Queues a paused job again, to go on from its last checkpoint."""
        return JobObject.of(service.resume(session, job_id, bell=request.app.state.bell))

    @router.get("/{job_id}/events", response_model=ListPage[EventObject], responses={200: {"content": {"text/event-stream": {}}}})
    def list_events(
        request: Request,
        session: ReadingDep,
        is_let_in: StillLetInDep,
        job_id: str,
        after: AfterParam = None,
        limit: LimitParam = 20,
        stream: Annotated[bool, Query(description="Server-sent events instead of a page.")] = False,
        last_event_id: Annotated[str | None, Header(max_length=20)] = None,
    ) -> ListPage[EventObject] | StreamingResponse:
        """Lists a job's events, newest first; `stream=true` sends them as they come, oldest first, after `Last-Event-ID`."""
        job: Job = repository.get(session, job_id, kind=repository.FINETUNE)
        if stream:
            streams: EventStreams = request.app.state.event_streams
            streams.admit()
            first = int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 10 else 0
            headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            followed = streams.follow(job.id, after=first, is_let_in=is_let_in)
            return StreamingResponse(followed, media_type="text/event-stream", headers=headers)
        number = None if after is None else event_number(after)
        if after is not None and number is None:
            raise InvalidInput(f"There is no event {after!r} to go on after.", param="after")
        rows, has_more = events.list_newest_first(session, job.id, before_number=number, limit=limit)
        return ListPage.of([EventObject.of(row) for row in rows], has_more=has_more)

    @router.get("/{job_id}/checkpoints")
    def list_checkpoints(
        session: ReadingDep, job_id: str, after: AfterParam = None, limit: LimitParam = 10
    ) -> ListPage[CheckpointObject]:
        """Lists a job's checkpoints, the latest first, each with its metrics."""
        repository.get(session, job_id, kind=repository.FINETUNE)
        rows = repository.checkpoints_newest_first(session, job_id)
        ids = [row.id for row in rows]
        if after is not None and after not in ids:
            raise InvalidInput(f"There is no checkpoint {after!r} to go on after.", param="after")
        rest = rows[ids.index(after) + 1 :] if after is not None else rows
        best = repository.best_checkpoint(session, job_id)
        return ListPage.of([CheckpointObject.of(row, is_best=row is best) for row in rest[:limit]], has_more=len(rest) > limit)

    return router
