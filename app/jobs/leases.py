"""Leases with fencing: who works on a job, and until when. All times are the database's."""

from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.clock import db_now
from app.jobs.models import Job
from app.jobs.states import CLAIMABLE, JobStatus, JobWish, move

MAX_ATTEMPTS = 3
WORKER_LOST = "worker_lost"


@dataclass(frozen=True)
class Lease:
    """A worker's right to work on a job; every write carries `fence`."""

    job_id: str
    fence: int


def claim_next(session: Session, *, owner: str, lease_s: float) -> Lease | None:
    """Claims the job that has waited longest, or returns None; two workers never claim the same."""
    candidates = session.scalars(
        select(Job.id)
        .where(Job.status.in_([status.value for status in CLAIMABLE]), Job.due_at <= db_now())
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).all()
    for job_id in candidates:
        claimed = move(
            session,
            job_id,
            JobStatus.RUNNING,
            message=f"Claimed by {owner}.",
            values={
                "fence": Job.fence + 1,
                "attempts": Job.attempts + 1,
                "lease_owner": owner,
                "lease_until": db_now() + lease_s,
                "started_at": func.coalesce(Job.started_at, db_now()),
            },
        )
        if claimed:
            fence = session.scalar(select(Job.fence).where(Job.id == job_id))
            assert fence is not None
            return Lease(job_id, fence)
    return None


def renew(session: Session, lease: Lease, *, lease_s: float) -> JobWish | None:
    """Extends a lease and returns the user's wish; None where the lease is lost: stop, and publish nothing."""
    wish = session.scalar(
        update(Job)
        .where(Job.id == lease.job_id, Job.fence == lease.fence, Job.status == JobStatus.RUNNING.value)
        .values(lease_until=db_now() + lease_s)
        .returning(Job.wish)
        .execution_options(synchronize_session=False)
    )
    return None if wish is None else JobWish(wish)


def interrupt(session: Session, lease: Lease, *, reason: str, expired_only: bool = False) -> bool:
    """Ends a running job by the machine's fault: it waits for the next worker, or fails after three attempts.

    A wish that was pending is granted instead: what no longer runs can be cancelled or paused at once.
    """
    # Locked: a wish that comes between this look and the move would be forgotten.
    job = session.get(Job, lease.job_id, populate_existing=True, with_for_update=True)
    if job is None:
        return False
    only_if = Job.lease_until < db_now() if expired_only else None
    if job.wish == JobWish.CANCEL.value:
        return move(session, job.id, JobStatus.CANCELLED, message="Cancelled.", fence=lease.fence, only_if=only_if)
    if job.wish == JobWish.PAUSE.value:
        return move(session, job.id, JobStatus.PAUSED, message="Paused.", fence=lease.fence, only_if=only_if)
    if job.attempts >= MAX_ATTEMPTS:
        return move(
            session,
            job.id,
            JobStatus.FAILED,
            message=f"Failed: {MAX_ATTEMPTS} attempts without a new checkpoint. Last: {reason}",
            fence=lease.fence,
            only_if=only_if,
            level="error",
            values={
                "error_code": WORKER_LOST,
                "error_message": f"The work was lost {MAX_ATTEMPTS} times without a new checkpoint. Last: {reason} "
                "Look at the worker's log, then create the job again.",
            },
        )
    return move(
        session,
        job.id,
        JobStatus.INTERRUPTED,
        message=f"Interrupted: {reason} It resumes by itself.",
        fence=lease.fence,
        only_if=only_if,
        level="warn",
        values={"due_at": db_now()},
    )


def expired(session: Session) -> list[Lease]:
    """Returns the leases that ran out."""
    rows = session.execute(select(Job.id, Job.fence).where(Job.status == JobStatus.RUNNING.value, Job.lease_until < db_now()))
    return [Lease(job_id, fence) for job_id, fence in rows]


def due_count(session: Session) -> int:
    """Returns how many jobs a worker could claim now."""
    return (
        session.scalar(select(func.count()).where(Job.status.in_([status.value for status in CLAIMABLE]), Job.due_at <= db_now()))
        or 0
    )
