"""The bell's task: look for work until there is none."""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import structlog

from app.db.unit_of_work import read_only, unit_of_work
from app.durable import is_disk_full
from app.errors import AppError
from app.experiments.service import advance_after_job
from app.fault_points import reach
from app.jobs import repository
from app.jobs.leases import Lease, claim_next, interrupt
from app.jobs.queue import SilentDoorbell
from app.jobs.service import fail
from worker.context import WorkerContext
from worker.evaluation import run_evaluation
from worker.export import run_export
from worker.finetune import run_finetune
from worker.messages import DISK_FULL
from worker.serving_pause import ServingPause

_log = structlog.get_logger()
_RECIPES: Mapping[str, Callable[[WorkerContext, Lease], None]] = {
    repository.FINETUNE: run_finetune,
    repository.EVALUATION: run_evaluation,
    repository.EXPORT: run_export,
}


def look(context: WorkerContext) -> int:
    """Claims and runs due jobs one after the other; returns how many it ran. A bell too many finds nothing."""
    ran = 0
    with ExitStack() as pause:
        while not context.stopping.is_set():
            with unit_of_work(context.engine) as session:
                lease = claim_next(session, owner=context.owner, lease_s=context.lease_s)
            if lease is None:
                break
            reach("after_claim")
            if ran == 0 and context.paused_answerers:
                # Until the queue is empty: between two jobs the answerer would load for nothing.
                pause.enter_context(ServingPause(context.paused_answerers, holder=context.owner, lease_s=context.lease_s))
            run(context, lease)
            ran += 1
    return ran


def run(context: WorkerContext, lease: Lease) -> None:
    """Runs a claimed job's recipe; whatever escapes it ends this attempt and no other."""
    with structlog.contextvars.bound_contextvars(job_id=lease.job_id, fence=lease.fence):
        _log.info("job_claimed")
        try:
            with read_only(context.engine) as session:
                kind = repository.get(session, lease.job_id).kind
            _RECIPES[kind](context, lease)
        except AppError as error:
            with unit_of_work(context.engine) as session:
                if error.retryable:
                    interrupt(session, lease, reason=error.message)
                else:
                    fail(session, lease, code=error.code, message=error.message, param=error.param)
        except Exception as error:
            _log.exception("recipe_failed")
            with unit_of_work(context.engine) as session:
                interrupt(session, lease, reason=_reason(error))
        _advance_experiment(context, lease.job_id)
        _log.info("job_left")


def _reason(error: Exception) -> str:
    if is_disk_full(error):
        return DISK_FULL
    return f"the worker met {type(error).__name__}; its log says more."


def _advance_experiment(context: WorkerContext, job_id: str) -> None:
    """Queues what follows in the job's experiment, if it has one: this very worker looks for it next."""
    try:
        advance_after_job(context.engine, job_id, store=context.store, bell=SilentDoorbell(), max_unfinished=sys.maxsize)
    except Exception:
        _log.exception("experiment_not_advanced")
