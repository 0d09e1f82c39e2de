"""`/v1/evaluations`: create, list, get, cancel, rows."""

from collections.abc import Iterator

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from app.errors import Conflict
from app.evaluations import repository, service
from app.evaluations.schemas import CreateEvaluation, EvaluationObject
from app.http.dependencies import AfterParam, BlobsDep, LimitParam, ReadingDep, StoreDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage
from app.jobs import service as jobs
from app.jobs.repository import EVALUATION


def make_router(*, max_unfinished: int) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"], responses=ERROR_RESPONSES)

    @router.post("")
    def create_evaluation(request: Request, session: TransactionDep, store: StoreDep, body: CreateEvaluation) -> EvaluationObject:
        """Queues an evaluation: exact match, set F1 and invalid rate of a model's answers on a file."""
        evaluation = service.create(
            session,
            model=body.model,
            file_id=body.file,
            max_rows=body.max_rows,
            store=store,
            bell=request.app.state.bell,
            max_unfinished=max_unfinished,
        )
        return EvaluationObject.of(evaluation, repository.job_of(session, evaluation))

    @router.get("")
    def list_evaluations(session: ReadingDep, after: AfterParam = None, limit: LimitParam = 20) -> ListPage[EvaluationObject]:
        """Lists evaluations, newest first."""
        rows, has_more = repository.list_page(session, after=after, limit=limit)
        return ListPage.of([EvaluationObject.of(row, repository.job_of(session, row)) for row in rows], has_more=has_more)

    @router.get("/{evaluation_id}")
    def get_evaluation(session: ReadingDep, evaluation_id: str) -> EvaluationObject:
        """Returns an evaluation with its progress and metrics."""
        evaluation = repository.get(session, evaluation_id)
        return EvaluationObject.of(evaluation, repository.job_of(session, evaluation))

    @router.post("/{evaluation_id}/cancel")
    def cancel_evaluation(session: TransactionDep, evaluation_id: str) -> EvaluationObject:
        """Cancels an evaluation."""
        evaluation = repository.get(session, evaluation_id)
        return EvaluationObject.of(evaluation, jobs.cancel(session, evaluation.job_id, kind=EVALUATION))

    @router.get("/{evaluation_id}/rows", response_class=StreamingResponse)
    def get_rows(session: ReadingDep, blobs: BlobsDep, evaluation_id: str) -> StreamingResponse:
        """Streams every row as JSON Lines: question, expected and given codes, whether they match, confidence."""
        evaluation = repository.get(session, evaluation_id)
        if (key := evaluation.rows_key) is None:
            raise Conflict(f"Evaluation {evaluation_id!r} has not succeeded: it has no rows yet.")

        # Opened here, before the status is sent: rows that are missing must not look like none.
        file = blobs.open(key)

        def lines() -> Iterator[bytes]:
            with file:
                yield from file

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return router
