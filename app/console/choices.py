"""What the pages' lists to choose from hold."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters import repository as adapters
from app.datasets import repository as datasets
from app.datasets.models import Dataset
from app.datasets.service import RESULTS_PURPOSE
from app.evaluations.models import Evaluation
from app.evaluations.repository import is_comparable
from app.jobs.models import Job
from app.jobs.states import JobStatus
from app.ml.model_store import ModelStore

_MOST = 200


def base_models(store: ModelStore) -> list[tuple[str, bool]]:
    """Returns the operator's base models, and whether the weights of each are there."""
    return [(name, store.find(name) is not None) for name in sorted(store.listed())]


def datasets_of(session: Session) -> list[Dataset]:
    """Returns the newest files that hold questions and answers."""
    return datasets.list_page(session, purpose=None, after=None, limit=_MOST, other_than=RESULTS_PURPOSE)[0]


def evaluated_files(session: Session, adapter_id: str) -> set[str]:
    """Returns the ids of the files that an adapter has answered: what a gate can be judged on."""
    query = select(Evaluation.file_id).join(Job, Job.id == Evaluation.job_id)
    query = query.where(Job.adapter_id == adapter_id, Job.status == JobStatus.SUCCEEDED.value, is_comparable())
    return set(session.scalars(query))


def model_names(session: Session, store: ModelStore) -> dict[str, list[str]]:
    """Returns every name that can answer, by kind: aliases, the newest adapters, base models."""
    trained, _ = adapters.list_page(session, after=None, limit=_MOST)
    return {
        "alias": [alias.name for alias in adapters.list_aliases(session)],
        "adapter": [adapter.id for adapter in trained],
        "base": [name for name, is_there in base_models(store) if is_there],
    }
