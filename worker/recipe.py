"""What every recipe does around its child: read the job, watch, and end the job by how the child ended."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.blobs.keys import adapter_key
from app.db.unit_of_work import unit_of_work
from app.errors import NotFound
from app.jobs import events, repository
from app.jobs.hyperparameters import request_param
from app.jobs.leases import Lease, interrupt
from app.jobs.models import Job
from app.jobs.service import fail
from app.jobs.states import JobStatus, JobWish, move
from worker.assignment import Assignment
from worker.context import WorkerContext
from worker.heartbeat import Heartbeat
from worker.messages import Advanced, Evaluated, Finished, Message, Note, Refused, Started, Stopped
from worker.supervision import Ending, Want, run_child

_log = structlog.get_logger()


@contextmanager
def work_folder(context: WorkerContext, lease: Lease) -> Iterator[Path]:
    """Yields an empty folder for one attempt and removes it afterwards."""
    folder = context.work_dir / f"{lease.job_id}-{lease.fence}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_attempt(
    context: WorkerContext,
    lease: Lease,
    heartbeat: Heartbeat,
    folder: Path,
    assignment: Assignment,
    *,
    on_message: Callable[[Message], None] | None = None,
) -> Finished | None:
    """Runs a child to its end; returns its result, or None where the job was ended without one.

    A cancel that came while the last bytes were written still counts. `on_message` gets every message instead of the job's
    story.
    """
    ending = run_child(
        folder,
        assignment,
        fence=lease.fence,
        on_message=on_message or (lambda message: note_message(context, lease, message)),
        want=lambda: wanted(context, heartbeat),
        stop_grace_s=context.stop_grace_s,
    )
    log_crash(folder, lease, ending)
    if isinstance(ending.last, Finished) and not heartbeat.lost and read_job(context, lease).wish != JobWish.CANCEL.value:
        return ending.last
    end_without_result(context, lease, heartbeat, ending)
    return None


def wanted(context: WorkerContext, heartbeat: Heartbeat) -> Want:
    """Says what shall become of the child."""
    if heartbeat.lost:
        return Want.KILL
    if heartbeat.wish is JobWish.CANCEL:
        return Want.STOP
    if heartbeat.wish is JobWish.PAUSE or context.stopping.is_set():
        return Want.SAVE_AND_STOP
    return Want.GO_ON


def note_message(context: WorkerContext, lease: Lease, message: Message) -> None:
    """Writes what a child tells into the job's row and story; a database that is away costs only this message."""
    try:
        with unit_of_work(context.engine) as session:
            match message:
                case Advanced(progress):
                    if repository.update_fenced(session, lease.job_id, lease.fence, {"progress": progress}):
                        step = f"Step {progress['step']}/{progress['total_steps']}"
                        loss = f": loss {progress['loss']:.4f}" if "loss" in progress else ""
                        events.append(session, lease.job_id, step + loss, type="metrics", data=progress)
                case Evaluated(by_epoch):
                    if repository.update_fenced(session, lease.job_id, lease.fence, {"metrics": {"by_epoch": by_epoch}}):
                        events.append(session, lease.job_id, _score_line(by_epoch[-1]), type="metrics", data=by_epoch[-1])
                case Started(facts):
                    _event(session, lease, "Started.", facts)
                case Note(text):
                    _event(session, lease, text, None)
    except OperationalError as error:
        _log.warning("message_not_stored", job_id=lease.job_id, error=type(error).__name__)


def end_without_result(context: WorkerContext, lease: Lease, heartbeat: Heartbeat, ending: Ending) -> None:
    """Moves a job whose child brought no result: refused, paused, cancelled, or interrupted."""
    if heartbeat.lost:
        _log.warning("lease_lost", job_id=lease.job_id, fence=lease.fence)
        return
    with unit_of_work(context.engine) as session:
        job = repository.get(session, lease.job_id, for_update=True)
        if isinstance(ending.last, Refused):
            param = request_param(ending.last.param, job.hyperparameters)
            fail(session, lease, code=ending.last.code, message=ending.last.message, param=param)
        elif job.wish == JobWish.CANCEL.value:
            move(session, lease.job_id, JobStatus.CANCELLED, message="Cancelled.", fence=lease.fence)
        elif isinstance(ending.last, Stopped) and job.wish == JobWish.PAUSE.value:
            move(session, lease.job_id, JobStatus.PAUSED, message="Paused.", fence=lease.fence)
        elif isinstance(ending.last, Stopped):
            interrupt(session, lease, reason="its worker was stopped.")
        else:
            interrupt(session, lease, reason=ending.reason)


def fetch_adapter(context: WorkerContext, job: Job, folder: Path) -> Path:
    """Returns a local path of the files of the adapter that a job is about.

    Raises:
        NotFound: they are gone.
    """
    try:
        return context.blobs.fetch(adapter_key(str(job.spec["adapter_checksum"])), folder)
    except FileNotFoundError as error:
        raise NotFound(f"The files of adapter {job.adapter_id!r} are gone. Train it again.", param="model") from error


def read_job(context: WorkerContext, lease: Lease) -> Job:
    """Returns the claimed job's row."""
    with unit_of_work(context.engine) as session:
        return repository.get(session, lease.job_id)


def log_crash(folder: Path, lease: Lease, ending: Ending) -> None:
    """Puts the end of a crashed child's output into the worker's log."""
    if ending.last is None:
        tail = (folder / "child.log").read_bytes()[-4000:].decode(errors="replace")
        _log.error("child_crashed", job_id=lease.job_id, exit_code=ending.exit_code, tail=tail)


def _score_line(scores: dict[str, Any]) -> str:
    return (
        f"Epoch {scores['epoch']:g} on {scores['rows']} held-out rows: exact match {scores['exact_match']:.4f}, "
        f"set F1 {scores['set_f1']:.4f}, invalid {scores['invalid_rate']:.4f}, loss {scores['eval_loss']:.4f}"
    )


def _event(session: Session, lease: Lease, text: str, data: dict[str, object] | None) -> None:
    if repository.update_fenced(session, lease.job_id, lease.fence, {"wish": Job.wish}):
        events.append(session, lease.job_id, text, data=data)
