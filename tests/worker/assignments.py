"""What a training process is given in tests: one thread, seed 1, nothing to go on from."""

from pathlib import Path

from app.ml.model_store import BaseModelFolder
from app.ml.spec import FinetuneSpec
from worker.assignment import Assignment


def training_assignment(
    base: BaseModelFolder, dataset: Path, spec: FinetuneSpec, *, validation: Path | None = None, resume_from: str | None = None
) -> Assignment:
    """Returns the assignment that trains a stored dataset's rows on a base model."""
    return Assignment(
        kind="finetune",
        base_model=base.name,
        base_model_folder=str(base.path),
        base_model_checksum=base.checksum,
        dataset=str(dataset),
        dataset_checksum="0" * 64,
        validation=None if validation is None else str(validation),
        spec=spec.to_mapping(),
        seed=1,
        resume_from=resume_from,
        adapter_folder=None,
        adapter_checksum=None,
        max_rows=None,
        threads=1,
    )
