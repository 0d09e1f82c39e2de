"""`/v1/evaluations`: create, list, get, cancel, rows, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.access import audit
from app.access.dependencies import CallerDep
from app.errors import InvalidInput
from app.evaluations import repository, service
from app.evaluations.models import Evaluation
from app.evaluations.schemas import CreateEvaluation, EvaluationObject, EvaluationRowObject
from app.http.dependencies import AfterParam, IdempotencyKeyParam, LimitParam, ReadingDep, StoreDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage
from app.http.schemas import Deleted
from app.jobs import service as jobs
from app.jobs.idempotency import CreationKey, create_once
from app.jobs.repository import EVALUATION

RowLimitParam = Annotated[int, Query(ge=1, le=1000, description="Most rows of a page.")]
WrongParam = Annotated[bool | None, Query(description="true: wrong rows alone; false: right ones alone.")]


def make_router(*, max_unfinished: int) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"], responses=ERROR_RESPONSES)

    @router.post("")
    def create_evaluation(
        request: Request,
        session: TransactionDep,
        store: StoreDep,
        body: CreateEvaluation,
        idempotency_key: IdempotencyKeyParam = None,
    ) -> EvaluationObject:
        """Queues an evaluation: a model answers a file's questions, and the answers are held against the file's.

        The same `Idempotency-Key` with the same body gives the same evaluation.
        """
        evaluation = create_once(
            session,
            Evaluation,
            CreationKey.find(idempotency_key, body),
            lambda: service.create(
                session,
                model=body.model,
                file_id=body.file,
                max_rows=body.max_rows,
                threshold=body.threshold,
                precision=body.precision,
                decide_by=body.decide_by,
                store=store,
                bell=request.app.state.bell,
                max_unfinished=max_unfinished,
            ),
        )
        return EvaluationObject.of(evaluation, repository.job_of(session, evaluation))

    @router.get("")
    def list_evaluations(session: ReadingDep, after: AfterParam = None, limit: LimitParam = 20) -> ListPage[EvaluationObject]:
        """Lists evaluations, newest first."""
        rows, has_more = repository.list_page(session, after=after, limit=limit)
        return ListPage.of([EvaluationObject.of(evaluation, job) for evaluation, job in rows], has_more=has_more)

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

    @router.get("/{evaluation_id}/rows")
    def list_rows(
        session: ReadingDep, evaluation_id: str, after: AfterParam = None, limit: RowLimitParam = 100, wrong: WrongParam = None
    ) -> ListPage[EvaluationRowObject]:
        """Lists the rows answered so far, in the file's order: question, expected and given codes, confidence."""
        repository.get(session, evaluation_id)
        rows, has_more = repository.page_rows(
            session,
            evaluation_id,
            after_row=_row_number(after),
            is_right=None if wrong is None else not wrong,
            limit=limit,
        )
        return ListPage.of([EvaluationRowObject.of(row) for row in rows], has_more=has_more)

    @router.delete("/{evaluation_id}")
    def delete_evaluation(request: Request, caller: CallerDep, session: TransactionDep, evaluation_id: str) -> Deleted:
        """Deletes an evaluation with its rows; 409 before its end, and while an experiment or an alias's gate needs it."""
        gone = service.delete(session, evaluation_id, users_of=request.app.state.evaluation_users)
        audit.record(session, caller, "evaluation.deleted", gone.id, details={"model": gone.model, "file": gone.file_id})
        return Deleted(id=gone.id, object="evaluation")

    return router


def _row_number(after: str | None) -> int:
    if after is None:
        return 0
    if not (after.isascii() and after.isdecimal() and len(after) < 10):
        raise InvalidInput("Rows go on after a row's number. Use the last id of the page before.", param="after")
    return int(after)
