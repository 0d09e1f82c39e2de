"""`/v1/experiments`: create, list, get, cancel, comparison, report, delete."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app.access import audit
from app.access.dependencies import CallerDep
from app.experiments import repository, service
from app.experiments.comparison import compare, comparison_csv, comparison_mapping
from app.experiments.report import report_html
from app.experiments.schemas import CreateExperiment, ExperimentObject
from app.experiments.starting import start_experiment
from app.http.dependencies import (
    AfterParam,
    BlobsDep,
    EngineDep,
    IdempotencyKeyParam,
    LimitParam,
    ReadingDep,
    StoreDep,
    TransactionDep,
)
from app.http.errors import ERROR_RESPONSES
from app.http.paging import ListPage
from app.http.schemas import Deleted
from app.jobs.idempotency import CreationKey

# The report holds its own style and pictures, and nothing that runs or loads.
_REPORT_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "x-content-type-options": "nosniff",
}


def make_router(*, max_unfinished: int, memory_limit_gib: float | None, default_preset: str) -> APIRouter:
    """Builds the routes."""
    router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERROR_RESPONSES)

    @router.post("")
    def create_experiment(
        request: Request,
        engine: EngineDep,
        store: StoreDep,
        blobs: BlobsDep,
        body: CreateExperiment,
        idempotency_key: IdempotencyKeyParam = None,
    ) -> ExperimentObject:
        """Queues a training job for each arm; each is evaluated on the test file as soon as it is trained.

        The same `Idempotency-Key` with the same body gives the same experiment.
        """
        return start_experiment(
            body,
            key=CreationKey.find(idempotency_key, body),
            engine=engine,
            store=store,
            blobs=blobs,
            bell=request.app.state.bell,
            uploads_dir=request.app.state.uploads_dir,
            max_unfinished=max_unfinished,
            memory_limit_gib=memory_limit_gib,
            default_preset=default_preset,
        )

    @router.get("")
    def list_experiments(session: ReadingDep, after: AfterParam = None, limit: LimitParam = 20) -> ListPage[ExperimentObject]:
        """Lists experiments, newest first."""
        rows, has_more = repository.list_page(session, after=after, limit=limit)
        arms = repository.arms_of(session, [row.id for row in rows])
        return ListPage.of([ExperimentObject.of(row, arms[row.id]) for row in rows], has_more=has_more)

    @router.get("/{experiment_id}")
    def get_experiment(session: ReadingDep, experiment_id: str) -> ExperimentObject:
        """Returns an experiment and where its arms stand."""
        experiment = repository.get(session, experiment_id)
        return ExperimentObject.of(experiment, repository.arms_of(session, [experiment_id])[experiment_id])

    @router.post("/{experiment_id}/cancel")
    def cancel_experiment(session: TransactionDep, experiment_id: str) -> ExperimentObject:
        """Cancels an experiment and every job of it that has not ended."""
        experiment = service.cancel(session, experiment_id)
        return ExperimentObject.of(experiment, repository.arms_of(session, [experiment_id])[experiment_id])

    @router.get("/{experiment_id}/comparison")
    def get_comparison(session: ReadingDep, blobs: BlobsDep, experiment_id: str) -> dict[str, Any]:
        """Compares the arms that have ended: metrics with intervals, paired tests against the baseline, cost, loss curves."""
        return comparison_mapping(compare(session, repository.get(session, experiment_id), blobs))

    @router.get("/{experiment_id}/comparison.csv", response_class=Response)
    def get_comparison_csv(session: ReadingDep, blobs: BlobsDep, experiment_id: str) -> Response:
        """Returns the comparison as a table, one line an arm."""
        table = comparison_csv(compare(session, repository.get(session, experiment_id), blobs))
        headers = {"content-disposition": f'attachment; filename="{experiment_id}.csv"'}
        return Response(table, media_type="text/csv; charset=utf-8", headers=headers)

    @router.get("/{experiment_id}/report", response_class=Response)
    def get_experiment_report(session: ReadingDep, blobs: BlobsDep, experiment_id: str) -> Response:
        """Returns the comparison as one HTML page with its plots inside, in Chinese and English."""
        page = report_html(compare(session, repository.get(session, experiment_id), blobs))
        return Response(page, media_type="text/html; charset=utf-8", headers=_REPORT_HEADERS)

    @router.delete("/{experiment_id}")
    def delete_experiment(caller: CallerDep, session: TransactionDep, experiment_id: str) -> Deleted:
        """Deletes an experiment and its arms; 409 before its end. Its jobs, adapters, evaluations and files stay."""
        gone = service.delete(session, experiment_id)
        audit.record(session, caller, "experiment.deleted", gone.id, details={"kind": gone.kind, "test_file": gone.test_file_id})
        return Deleted(id=gone.id, object="experiment")

    return router
