"""The worker process: `celery -A worker.main worker`. One slot, prefork, never solo; never imports torch or FastAPI."""

import os
import signal
import socket
import threading
import time
from typing import Any

import structlog
from celery.signals import worker_process_init, worker_ready, worker_shutting_down
from sqlalchemy.exc import SQLAlchemyError

from app.db.engine import make_engine
from app.db.unit_of_work import unit_of_work
from app.jobs import repository
from app.jobs.queue import LOOK_TASK, make_celery
from app.logs import configure_logs
from app.parent_death import die_with_parent
from app.settings import Settings
from worker.context import WorkerContext, open_context
from worker.shared_flag import SharedFlag
from worker.slot_stop import SlotStop
from worker.tasks import look

_log = structlog.get_logger()
_settings = Settings()
_OWNER = f"{socket.gethostname()}-{os.getpid()}"
_MAIN_PID = os.getpid()
# Made before the pool forks, so that the main process can tell the slot's process to checkpoint and stop.
_stopping = SharedFlag()
_context: WorkerContext | None = None
_slot = SlotStop(_stopping)

app = make_celery(_settings.resolved_broker_url)


@app.task(name=LOOK_TASK)  # type: ignore[untyped-decorator]
def hear_bell(job_id: str) -> None:
    """A bell means look, whatever id it names."""
    global _context  # noqa: PLW0603  # one per pool process, opened after the fork
    if _context is None:
        _context = open_context(_settings, owner=_OWNER, stopping=_slot)
    with _slot.working():
        look(_context)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _on_slot_started(**_: Any) -> None:
    configure_logs(_settings.log_format, process="worker")
    # The slot holds no device memory, so it may go at once; its training process gets SIGTERM and saves.
    die_with_parent(_MAIN_PID, signal.SIGKILL)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _on_shutting_down(**_: Any) -> None:
    _stopping.set()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _on_ready(**_: Any) -> None:
    configure_logs(_settings.log_format, process="worker")
    threading.Thread(target=_say_alive_forever, name="sign-of-life", daemon=True).start()
    app.send_task(LOOK_TASK, args=["start"])


def _say_alive_forever() -> None:
    engine = make_engine(_settings.resolved_database_url)
    facts = {"host": socket.gethostname(), "pid": os.getpid()}
    while not _stopping.is_set():
        try:
            with unit_of_work(engine) as session:
                repository.say_alive(session, _OWNER, facts)
        except SQLAlchemyError as error:
            _log.warning("sign_of_life_missed", error=type(error).__name__)
        time.sleep(_settings.lease_s / 4)
