"""Queries over experiments and their arms."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.db.paging import page
from app.errors import NotFound
from app.evaluations.models import Evaluation
from app.experiments.models import Experiment, ExperimentArm
from app.jobs.models import Job

RUNNING = "running"


@dataclass(frozen=True)
class ArmRows:
    """An arm with the rows that it hangs on; `job` trains it, `evaluating` runs its evaluation."""

    arm: ExperimentArm
    job: Job | None
    evaluation: Evaluation | None
    evaluating: Job | None


def get(session: Session, experiment_id: str, *, for_update: bool = False) -> Experiment:
    """Returns an experiment as the database holds it now.

    Raises:
        NotFound: no such experiment.
    """
    experiment = session.get(Experiment, experiment_id, populate_existing=True, with_for_update=True if for_update else None)
    if experiment is None:
        raise NotFound(f"There is no experiment {experiment_id!r}. List them with GET /v1/experiments.")
    return experiment


def list_page(session: Session, *, after: str | None, limit: int) -> tuple[list[Experiment], bool]:
    """Returns a page of experiments, newest first, and whether more follow."""
    return page(session, select(Experiment), Experiment, after=after, limit=limit)


def arms_of(session: Session, experiment_ids: Sequence[str]) -> dict[str, list[ArmRows]]:
    """Returns each experiment's arms in order, with their jobs and evaluations as the database holds them now."""
    training, evaluating = Job.__table__.alias("training"), Job.__table__.alias("evaluating")
    query = (
        select(ExperimentArm, training.c.id, Evaluation, evaluating.c.id)
        .outerjoin(training, training.c.id == ExperimentArm.job_id)
        .outerjoin(Evaluation, Evaluation.id == ExperimentArm.evaluation_id)
        .outerjoin(evaluating, evaluating.c.id == Evaluation.job_id)
        .where(ExperimentArm.experiment_id.in_(experiment_ids))
        .order_by(ExperimentArm.experiment_id, ExperimentArm.number)
        .execution_options(populate_existing=True)
    )
    found = session.execute(query).all()
    wanted = {job_id for _, trainer, _, evaluator in found for job_id in (trainer, evaluator) if job_id}
    jobs = {
        job.id: job for job in session.scalars(select(Job).where(Job.id.in_(wanted)).execution_options(populate_existing=True))
    }
    arms: dict[str, list[ArmRows]] = {experiment_id: [] for experiment_id in experiment_ids}
    for arm, trainer, evaluation, evaluator in found:
        arms[arm.experiment_id].append(ArmRows(arm, jobs.get(trainer), evaluation, jobs.get(evaluator)))
    return arms


def running_ids(session: Session) -> list[str]:
    """Returns the experiments that are not over, the oldest first."""
    query = select(Experiment.id).where(Experiment.status == RUNNING).order_by(Experiment.created_at, Experiment.id)
    return list(session.scalars(query))


def find_of_job(session: Session, job_id: str) -> str | None:
    """Returns the experiment whose arm a job trains or evaluates, or None."""
    return session.scalar(
        select(ExperimentArm.experiment_id)
        .outerjoin(Evaluation, Evaluation.id == ExperimentArm.evaluation_id)
        .where(or_(ExperimentArm.job_id == job_id, Evaluation.job_id == job_id))
        .limit(1)
    )


def find_user_of_evaluation(session: Session, evaluation_id: str) -> str | None:
    """Returns the experiment that compares by an evaluation, or None."""
    found = session.scalar(select(ExperimentArm.experiment_id).where(ExperimentArm.evaluation_id == evaluation_id).limit(1))
    return f"experiment {found!r}" if found else None


def find_unfinished_user_of_file(session: Session, file_id: str) -> str | None:
    """Returns an experiment that is not over and needs a file, or None."""
    found = session.scalar(
        select(Experiment.id)
        .outerjoin(ExperimentArm, ExperimentArm.experiment_id == Experiment.id)
        .where(
            Experiment.status == RUNNING,
            or_(
                Experiment.test_file_id == file_id,
                Experiment.validation_file_id == file_id,
                ExperimentArm.training_file_id == file_id,
            ),
        )
        .limit(1)
    )
    return f"experiment {found!r}" if found else None


def find_unfinished_user_of_adapter(session: Session, adapter_id: str) -> str | None:
    """Returns an experiment that is not over and whose arm trained an adapter, or None."""
    found = session.scalar(
        select(Experiment.id)
        .join(ExperimentArm, ExperimentArm.experiment_id == Experiment.id)
        .join(Job, Job.id == ExperimentArm.job_id)
        .where(Experiment.status == RUNNING, Job.adapter_id == adapter_id)
        .limit(1)
    )
    return f"experiment {found!r}" if found else None
