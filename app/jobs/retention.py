"""How long what an ended job leaves behind is kept: a step of the api's upkeep, a bounded number of deletions a round."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.blobs.store import BlobStore
from app.db.clock import db_now
from app.db.unit_of_work import after_commit, read_only, unit_of_work
from app.jobs.models import Checkpoint, Job
from app.jobs.states import TERMINAL, JobStatus

_DAY_S = 86_400.0
_DELETED_A_ROUND = 50
# An attempt removes its own folder; older ones are of workers that were killed.
_FOLDER_AGE_S = _DAY_S
_ENDED = [status.value for status in TERMINAL]


class JobRetention:
    """Deletes checkpoints of jobs that ended more than `days` ago, and the scratch folders of dead attempts.

    An adapter is no checkpoint: it stays. A checkpoint that an unfinished evaluation may still read stays until that has ended.
    """

    def __init__(self, engine: Engine, blobs: BlobStore, work_dir: Path, *, days: float) -> None:
        self._engine = engine
        self._blobs = blobs
        self._work_dir = work_dir
        self._days = days

    def enforce(self) -> int:
        """Runs one round of at most 50 deletions of each kind and returns how many there were."""
        return self._forget_checkpoints() + self._remove_scratch()

    def _forget_checkpoints(self) -> int:
        with unit_of_work(self._engine) as session:
            old = self._old_checkpoints(session)
            for checkpoint in old:
                key = checkpoint.blob_key
                session.delete(checkpoint)
                # A blob that stays behind a crash here costs space; a row without its blob would promise what is gone.
                after_commit(session, lambda key=key: self._blobs.delete(key))  # type: ignore[misc]
        return len(old)

    def _old_checkpoints(self, session: Session) -> Sequence[Checkpoint]:
        unfinished = session.scalars(select(Job.spec).where(Job.status.not_in(_ENDED)))
        needed = {str(spec["checkpoint"]) for spec in unfinished if spec.get("checkpoint")}
        return session.scalars(
            select(Checkpoint)
            .join(Job, Job.id == Checkpoint.job_id)
            .where(Job.status.in_(_ENDED), Job.finished_at < db_now() - self._days * _DAY_S, Checkpoint.id.not_in(needed))
            .order_by(Job.finished_at, Checkpoint.step)
            .limit(_DELETED_A_ROUND)
        ).all()

    def _remove_scratch(self) -> int:
        """Removes `JOB-FENCE` folders that nobody has written to for a day and that are no running attempt's."""
        if not self._work_dir.is_dir():
            return 0
        before = time.time() - _FOLDER_AGE_S
        old = [place for place in self._work_dir.iterdir() if place.is_dir() and place.stat().st_mtime < before]
        if not old:
            return 0
        with read_only(self._engine) as session:
            running = session.execute(select(Job.id, Job.fence).where(Job.status == JobStatus.RUNNING.value)).all()
        alive = {f"{job_id}-{fence}" for job_id, fence in running}
        gone = [place for place in old if place.name not in alive][:_DELETED_A_ROUND]
        for place in gone:
            shutil.rmtree(place, ignore_errors=True)
        return len(gone)
