"""From what a user asks to the queued arms of an experiment. The HTTP dialect and the console come through here."""

import tempfile
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.blobs.store import BlobStore
from app.datasets import service as dataset_service
from app.datasets import splits
from app.db.unit_of_work import read_only, unit_of_work
from app.experiments import repository, service
from app.experiments.models import Experiment
from app.experiments.schemas import CreateExperiment, ExperimentObject
from app.jobs.idempotency import CreationKey, create_once, find_made
from app.jobs.queue import Doorbell
from app.ml.model_store import ModelStore


def start_experiment(
    body: CreateExperiment,
    *,
    engine: Engine,
    store: ModelStore,
    blobs: BlobStore,
    bell: Doorbell,
    uploads_dir: Path,
    max_unfinished: int,
    memory_limit_gib: float | None,
    default_preset: str,
    key: CreationKey | None = None,
) -> ExperimentObject:
    """Cuts the training rows, and queues a training job for each arm; all of it, or nothing. The same key makes one experiment.

    Raises:
        AppError: as `CreateExperiment.to_new`, `create_once` and `service.create`.
    """
    new = body.to_new()
    stored_keys: list[str] = []
    with tempfile.TemporaryDirectory(dir=uploads_dir) as scratch:
        # Read and cut outside of the transaction: SQLite has one writer at a time.
        with read_only(engine) as session:
            # Whoever asks again need not wait for another cut.
            if (known := find_made(session, Experiment, key)) is not None:
                return _object_of(session, known)
            training = splits.get_splittable(session, new.training_file)
        cuts = service.cut_training_rows(blobs, training, new, scratch=Path(scratch))
        try:
            with unit_of_work(engine) as session:
                experiment = create_once(
                    session,
                    Experiment,
                    key,
                    lambda: service.create(
                        session,
                        new,
                        cuts,
                        store=store,
                        blobs=blobs,
                        bell=bell,
                        max_unfinished=max_unfinished,
                        memory_limit_gib=memory_limit_gib,
                        default_preset=default_preset,
                        stored_keys=stored_keys,
                    ),
                )
                return _object_of(session, experiment)
        except BaseException as error:
            dataset_service.forget_uncommitted(blobs, stored_keys, error)
            raise


def _object_of(session: Session, experiment: Experiment) -> ExperimentObject:
    return ExperimentObject.of(experiment, repository.arms_of(session, [experiment.id])[experiment.id])
