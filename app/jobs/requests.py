"""From a request's body to what the service takes."""

import secrets

from app.jobs.hyperparameters import PARAM_PREFIX
from app.jobs.schemas import CreateJob
from app.jobs.service import NewJob
from app.ml.spec import DEFAULT_PRESET, resolve_spec


def new_job(body: CreateJob, *, default_preset: str = DEFAULT_PRESET) -> NewJob:
    """Resolves the hyperparameters, by the default preset where they name none, and draws a seed where none is given.

    Raises:
        InvalidSpec: a hyperparameter is wrong; `param` is its name in the request.
    """
    given = body.method.supervised.hyperparameters
    return NewJob(
        base_model=body.model,
        training_file=body.training_file,
        validation_file=body.validation_file,
        spec=resolve_spec(given, param_prefix=PARAM_PREFIX, default_preset=default_preset),
        hyperparameters=given,
        suffix=body.suffix,
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        metadata=body.metadata or {},
        takes_codebook_codes=body.codebook_codes,
    )
