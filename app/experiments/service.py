"""What may be done with experiments. A step may run twice, from several processes: the row is locked, and is the truth."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from app.blobs.store import BlobStore
from app.datasets import repository as datasets
from app.datasets import splits
from app.datasets.models import Dataset
from app.datasets.splits import CutPart
from app.db.clock import db_now
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import AppError, Conflict, InvalidInput
from app.evaluations import service as evaluations
from app.experiments import repository
from app.experiments.arms import ArmPlan
from app.experiments.models import Experiment, ExperimentArm
from app.experiments.repository import RUNNING, ArmRows
from app.ids import new_id
from app.jobs import idempotency
from app.jobs import repository as job_rows
from app.jobs import service as jobs
from app.jobs.hyperparameters import PARAM_PREFIX
from app.jobs.queue import Doorbell
from app.jobs.service import NewJob, QueueFull
from app.jobs.states import TERMINAL, JobStatus
from app.ml.model_store import ModelStore
from app.ml.spec import resolve_spec
from app.ml.splitting import SplitPart

EXPERIMENT, ARM = "experiment", "experiment_arm"
"""Keys of the metadata of an arm's job."""
_log = structlog.get_logger()


class ArmStatus(StrEnum):
    """Where an arm stands."""

    QUEUED = "queued"
    TRAINING = "training"
    TRAINED = "trained"
    EVALUATING = "evaluating"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({ArmStatus.SUCCEEDED, ArmStatus.FAILED, ArmStatus.CANCELLED})


@dataclass(frozen=True, kw_only=True)
class NewExperiment:
    """What a user asks for; names and numbers were checked for form."""

    name: str | None
    kind: str
    vary: Mapping[str, Any]
    arms: Sequence[ArmPlan]
    hyperparameters: Mapping[str, Any]
    training_file: str
    validation_file: str | None
    test_file: str
    max_rows: int | None
    suffix: str | None
    seed: int


def cut_training_rows(blobs: BlobStore, training: Dataset, new: NewExperiment, *, scratch: Path) -> list[CutPart]:
    """Cuts the subsets that arms train on, each smaller one within the next larger, with the file's category shares.

    Raises:
        InvalidInput: the file has fewer rows than an arm wants.
    """
    assert training.report is not None
    rows = int(training.report["rows"])
    sizes = sorted({arm.training_rows for arm in new.arms if arm.training_rows}, reverse=True)
    if sizes and sizes[0] > rows:
        raise InvalidInput(f"File {training.id!r} has {rows} rows, fewer than {sizes[0]}.", param="vary.sizes")
    parts, within = [], None
    for size in (size for size in sizes if size < rows):
        parts.append(SplitPart(name=_part_name(size), size=size, within=within))
        within = _part_name(size)
    return splits.cut(blobs, training, parts, seed=new.seed, scratch=scratch) if parts else []


def create(
    session: Session,
    new: NewExperiment,
    cuts: Sequence[CutPart],
    *,
    store: ModelStore,
    blobs: BlobStore,
    bell: Doorbell,
    max_unfinished: int,
    memory_limit_gib: float | None,
    default_preset: str,
    stored_keys: list[str],
) -> Experiment:
    """Stores an experiment, its training subsets and a job for each arm that trains, all or nothing.

    The caller removes the blobs under `stored_keys` if the transaction fails.

    Raises:
        NotFound: a file or base model does not exist.
        InvalidInput: an arm's job cannot work, as `create_finetune`.
        QueueFull: the queue has no room for all arms.
    """
    training = splits.get_splittable(session, new.training_file, for_update=True)
    test = datasets.get(session, new.test_file, param="test_file", for_update=True)
    if test.report is None:
        raise InvalidInput(f"File {test.id!r} is a result, not a dataset.", param="test_file")
    assert training.report is not None
    files = {int(training.report["rows"]): training}
    if cuts:
        stored = splits.store(session, blobs, training, cuts, seed=new.seed, stored_keys=stored_keys)
        files |= {cut.part.size: file for cut, file in zip(cuts, stored, strict=True) if cut.part.size is not None}
    experiment = Experiment(
        id=new_id("exp"),
        name=new.name,
        status=RUNNING,
        kind=new.kind,
        vary=dict(new.vary),
        hyperparameters=dict(new.hyperparameters),
        training_file_id=new.training_file,
        validation_file_id=new.validation_file,
        test_file_id=new.test_file,
        max_rows=new.max_rows,
        seed=new.seed,
        created_at=job_rows.now(session),
        finished_at=None,
    )
    session.add(experiment)
    session.flush()
    for number, plan in enumerate(new.arms, start=1):
        store.get(plan.base_model)
        file = None if plan.training_rows == 0 else training if plan.training_rows is None else files[plan.training_rows]
        arm = ExperimentArm(
            experiment_id=experiment.id,
            number=number,
            label=plan.label[:400],
            base_model=plan.base_model,
            training_file_id=None if file is None else file.id,
            training_rows=0 if file is None or file.report is None else int(file.report["rows"]),
            hyperparameters=dict(plan.hyperparameters),
            job_id=None,
            evaluation_id=None,
            error=None,
        )
        if file is not None:
            arm.job_id = jobs.create_finetune(
                session,
                NewJob(
                    base_model=plan.base_model,
                    training_file=file.id,
                    validation_file=new.validation_file,
                    spec=resolve_spec(plan.hyperparameters, param_prefix=PARAM_PREFIX, default_preset=default_preset),
                    hyperparameters=dict(plan.hyperparameters),
                    suffix=f"{new.suffix or experiment.id}-{number}",
                    seed=new.seed,
                    metadata={EXPERIMENT: experiment.id, ARM: str(number)},
                ),
                store=store,
                blobs=blobs,
                bell=bell,
                max_unfinished=max_unfinished,
                memory_limit_gib=memory_limit_gib,
            ).id
        session.add(arm)
    session.flush()
    advance(session, experiment.id, store=store, bell=bell, max_unfinished=max_unfinished)
    return repository.get(session, experiment.id)


def advance(session: Session, experiment_id: str, *, store: ModelStore, bell: Doorbell, max_unfinished: int) -> None:
    """Queues the evaluations of arms that have been trained, and ends an experiment all of whose arms have ended."""
    experiment = repository.get(session, experiment_id, for_update=True)
    if experiment.status != RUNNING:
        return
    for rows in repository.arms_of(session, [experiment_id])[experiment_id]:
        if rows.evaluation is None and rows.arm.error is None and _is_trained(rows):
            _evaluate(session, experiment, rows, store=store, bell=bell, max_unfinished=max_unfinished)
    statuses = [status_of(rows) for rows in repository.arms_of(session, [experiment_id])[experiment_id]]
    if all(status in ENDED for status in statuses):
        is_whole = all(status is ArmStatus.SUCCEEDED for status in statuses)
        _end(session, experiment_id, JobStatus.SUCCEEDED if is_whole else JobStatus.FAILED)


def advance_all(engine: Engine, *, store: ModelStore, bell: Doorbell, max_unfinished: int) -> None:
    """Advances every experiment that is not over; one that cannot be advanced does not hold up the others."""
    with read_only(engine) as session:
        running = repository.running_ids(session)
    for experiment_id in running:
        try:
            with unit_of_work(engine) as session:
                advance(session, experiment_id, store=store, bell=bell, max_unfinished=max_unfinished)
        except Exception:
            _log.exception("experiment_not_advanced", experiment_id=experiment_id)


def advance_after_job(engine: Engine, job_id: str, *, store: ModelStore, bell: Doorbell, max_unfinished: int) -> None:
    """Advances the experiment that a job belongs to, if any; the upkeep loop would do it later."""
    with read_only(engine) as session:
        experiment_id = repository.find_of_job(session, job_id)
    if experiment_id is not None:
        with unit_of_work(engine) as session:
            advance(session, experiment_id, store=store, bell=bell, max_unfinished=max_unfinished)


def cancel(session: Session, experiment_id: str) -> Experiment:
    """Cancels an experiment and all of its jobs that have not ended.

    Raises:
        Conflict: it is over.
    """
    experiment = repository.get(session, experiment_id, for_update=True)
    if experiment.status != RUNNING:
        raise Conflict(f"Experiment {experiment_id!r} is {experiment.status} and cannot be cancelled any more.")
    for rows in repository.arms_of(session, [experiment_id])[experiment_id]:
        for job in (rows.job, rows.evaluating):
            if job is not None and job.status not in TERMINAL:
                # One that ends this very moment has nothing left to cancel.
                with suppress(Conflict):
                    jobs.cancel(session, job.id, kind=job.kind)
    _end(session, experiment_id, JobStatus.CANCELLED)
    return repository.get(session, experiment_id)


def delete(session: Session, experiment_id: str) -> Experiment:
    """Removes an experiment and its arms, and returns what it was; jobs, adapters, evaluations and files are their own and stay.

    Raises:
        NotFound: no such experiment.
        Conflict: it is not over, or a job of it has not ended yet.
    """
    experiment = repository.get(session, experiment_id, for_update=True)
    if experiment.status == RUNNING:
        raise Conflict(f"Experiment {experiment_id!r} is running. Cancel it first, or wait for its end.")
    for rows in repository.arms_of(session, [experiment_id])[experiment_id]:
        for job in (rows.job, rows.evaluating):
            if job is not None and job.status not in TERMINAL:
                raise Conflict(f"Job {job.id!r} of experiment {experiment_id!r} is still {job.status}. Wait for its end.")
    idempotency.forget(session, experiment)
    session.delete(experiment)
    session.flush()
    return experiment


def status_of(rows: ArmRows) -> ArmStatus:
    """Returns where an arm stands, by its jobs."""
    if rows.arm.error is not None:
        return ArmStatus.FAILED
    if rows.evaluating is not None:
        return _STATUS_OF_EVALUATION.get(rows.evaluating.status, ArmStatus.EVALUATING)
    return ArmStatus.TRAINED if rows.job is None else _STATUS_OF_TRAINING[JobStatus(rows.job.status)]


_STATUS_OF_EVALUATION: Mapping[str, ArmStatus] = {
    JobStatus.SUCCEEDED: ArmStatus.SUCCEEDED,
    JobStatus.FAILED: ArmStatus.FAILED,
    JobStatus.CANCELLED: ArmStatus.CANCELLED,
}
_STATUS_OF_TRAINING: Mapping[JobStatus, ArmStatus] = {
    JobStatus.VALIDATING_FILES: ArmStatus.QUEUED,
    JobStatus.QUEUED: ArmStatus.QUEUED,
    JobStatus.RUNNING: ArmStatus.TRAINING,
    JobStatus.INTERRUPTED: ArmStatus.TRAINING,
    JobStatus.PAUSED: ArmStatus.PAUSED,
    JobStatus.SUCCEEDED: ArmStatus.TRAINED,
    JobStatus.FAILED: ArmStatus.FAILED,
    JobStatus.CANCELLED: ArmStatus.CANCELLED,
}


def _is_trained(rows: ArmRows) -> bool:
    return rows.job is None or rows.job.status == JobStatus.SUCCEEDED.value


def _evaluate(
    session: Session, experiment: Experiment, rows: ArmRows, *, store: ModelStore, bell: Doorbell, max_unfinished: int
) -> None:
    adapter = None if rows.job is None else rows.job.adapter_id
    try:
        evaluation = evaluations.create(
            session,
            model=adapter or rows.arm.base_model,
            file_id=experiment.test_file_id,
            max_rows=experiment.max_rows,
            store=store,
            bell=bell,
            max_unfinished=max_unfinished,
        )
    except QueueFull:
        return  # the next round tries again
    except AppError as error:
        rows.arm.error = error.message
    else:
        rows.arm.evaluation_id = evaluation.id
    session.flush()


def _end(session: Session, experiment_id: str, status: JobStatus) -> None:
    session.execute(
        update(Experiment)
        .where(Experiment.id == experiment_id, Experiment.status == RUNNING)
        .values(status=status.value, finished_at=db_now())
        .execution_options(synchronize_session=False)
    )


def _part_name(size: int) -> str:
    return f"train_{size}"
