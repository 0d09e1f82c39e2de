"""Users, workers and the sweep act on jobs in any order; what must always hold is looked at after each step."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, delete, select

from app.adapters.models import Adapter, AdapterCounter
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import Conflict
from app.jobs import leases, service
from app.jobs.leases import Lease
from app.jobs.models import Job, JobEvent
from app.jobs.states import MOVES, TERMINAL, JobStatus
from app.jobs.sweeping import sweep
from tests.fixtures.queue import RecordingDoorbell, claim, insert_job, let_lease_die

MOST_JOBS = 3


class JobsMachine(RuleBasedStateMachine):
    jobs: Bundle[str] = Bundle("jobs")
    claims: Bundle[Lease] = Bundle("claims")

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.bell = RecordingDoorbell()
        self.seen: dict[str, tuple[JobStatus, int]] = {}
        self.holders: dict[str, Lease] = {}
        self.publishers: dict[str, Lease] = {}
        with unit_of_work(engine) as session:
            for table in (Job, Adapter, AdapterCounter):
                session.execute(delete(table))

    @rule(target=jobs)
    def create(self) -> str:
        if len(self.seen) == MOST_JOBS:
            return next(iter(self.seen))
        job_id = insert_job(self.engine, suffix="telecom")
        self.seen[job_id] = (JobStatus.QUEUED, 0)
        return job_id

    @rule(job_id=jobs, verb=st.sampled_from(["cancel", "pause", "resume"]))
    def user_asks(self, job_id: str, verb: str) -> None:
        try:
            with unit_of_work(self.engine) as session:
                if verb == "cancel":
                    service.cancel(session, job_id, kind="finetune")
                elif verb == "pause":
                    service.pause(session, job_id)
                else:
                    service.resume(session, job_id, bell=self.bell)
        except Conflict:
            pass

    @rule(target=claims)
    def worker_claims(self) -> Lease:
        lease = claim(self.engine)
        if lease is None:
            return Lease("ftjob-none", 0)
        self.holders[lease.job_id] = lease
        return lease

    @rule(lease=claims)
    def worker_renews(self, lease: Lease) -> None:
        with unit_of_work(self.engine) as session:
            wish = leases.renew(session, lease, lease_s=60)
        assert (wish is not None) == self.holds(lease)

    @rule(lease=claims, step=st.integers(1, 3))
    def worker_writes_a_checkpoint(self, lease: Lease, step: int) -> None:
        with unit_of_work(self.engine) as session:
            kept = service.record_checkpoint(session, lease, step=step, blob_key=f"k/{step}", checksum="c", metrics={})
        assert kept == self.holds(lease)

    @rule(lease=claims)
    def worker_publishes(self, lease: Lease) -> None:
        if lease.fence == 0:
            return
        with unit_of_work(self.engine) as session:
            adapter = service.finish_finetune(
                session, lease, checksum="c" * 64, blob_key="adapters/c", metrics={}, trained_tokens=1, result_file_ids={}
            )
        assert (adapter is not None) == self.holds(lease)
        if adapter is not None:
            self.publishers[lease.job_id] = lease

    @rule(lease=consumes(claims))
    def worker_gives_up(self, lease: Lease) -> None:
        with unit_of_work(self.engine) as session:
            assert leases.interrupt(session, lease, reason="it stops.") == self.holds(lease)

    @rule(lease=claims)
    def worker_finds_the_work_impossible(self, lease: Lease) -> None:
        with unit_of_work(self.engine) as session:
            assert service.fail(session, lease, code="nothing_to_train", message="No rows.", param=None) == self.holds(lease)

    @rule(job_id=jobs)
    def a_lease_dies_and_the_sweep_comes(self, job_id: str) -> None:
        was_running = self.seen[job_id][0] is JobStatus.RUNNING
        let_lease_die(self.engine, job_id)
        assert sweep(self.engine, self.bell) == was_running

    def holds(self, lease: Lease) -> bool:
        return self.holders.get(lease.job_id) == lease and self.seen[lease.job_id][0] is JobStatus.RUNNING

    @invariant()
    def everything_holds(self) -> None:
        with read_only(self.engine) as session:
            for job in session.scalars(select(Job)):
                self.job_holds(job)
                numbers = session.scalars(select(JobEvent.number).where(JobEvent.job_id == job.id).order_by(JobEvent.number))
                assert list(numbers) == list(range(1, job.event_count + 1)), "events are numbered without gaps"
            published = {adapter.job_id for adapter in session.scalars(select(Adapter))}
            succeeded = set(session.scalars(select(Job.id).where(Job.status == "succeeded")))
            assert published == succeeded == set(self.publishers), "an adapter is there exactly if its job has succeeded"

    def job_holds(self, job: Job) -> None:
        status, (before, fence) = JobStatus(job.status), self.seen[job.id]
        assert status is before or status in MOVES[before], f"{before} -> {status} is not in the table"
        assert job.fence >= fence, "the fence never decreases"
        assert (status is JobStatus.RUNNING) == (job.lease_owner is not None) == (job.lease_until is not None)
        assert job.wish == "none" or status is JobStatus.RUNNING, "only a running job has a wish"
        assert (status in TERMINAL) == (job.finished_at is not None)
        assert (status is JobStatus.FAILED) == (job.error_code is not None)
        assert 0 <= job.attempts <= leases.MAX_ATTEMPTS
        self.seen[job.id] = (status, job.fence)


def test_whatever_happens_in_whatever_order_the_promises_hold(engine: Engine) -> None:
    examples = 30 if engine.dialect.name == "sqlite" else 20
    run_state_machine_as_test(
        lambda: JobsMachine(engine), settings=settings(max_examples=examples, stateful_step_count=25, deadline=None)
    )
