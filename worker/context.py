"""What the recipes need: opened once in each pool process, never across a fork."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine

from app.blobs.opening import open_blobs
from app.blobs.store import BlobStore
from app.db.engine import make_engine
from app.ml.card_shares import TRAINING_SHARE
from app.ml.model_store import ModelStore
from app.settings import Settings


class StopFlag(Protocol):
    """Set once the worker shuts down."""

    def is_set(self) -> bool:
        """Says whether the worker shuts down."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """The parts of a worker, and the numbers that it goes by."""

    engine: Engine
    blobs: BlobStore
    store: ModelStore
    work_dir: Path
    owner: str
    lease_s: float
    stop_grace_s: float
    keep_checkpoints: int
    threads: int | None
    devices_per_job: int
    memory_limit_gib: float | None
    stopping: StopFlag
    card_share: float | None = None
    """The part of a GPU's memory for a training process; None: no limit but `memory_limit_gib`."""
    paused_answerers: tuple[str, ...] = ()
    """Addresses of the answerers that leave the card while jobs run."""
    gguf_converter: Path | None = None


def open_context(settings: Settings, *, owner: str, stopping: StopFlag) -> WorkerContext:
    """Opens the parts that the settings name."""
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    return WorkerContext(
        engine=make_engine(settings.resolved_database_url),
        blobs=open_blobs(settings.blobs_url, settings.blobs_dir),
        store=ModelStore(settings.models_dir, settings.base_models),
        work_dir=settings.work_dir.resolve(),
        owner=owner,
        lease_s=settings.lease_s,
        stop_grace_s=settings.stop_grace_s,
        keep_checkpoints=settings.keep_checkpoints,
        threads=settings.threads,
        devices_per_job=settings.devices_per_job,
        memory_limit_gib=settings.memory_limit_gib,
        stopping=stopping,
        card_share=TRAINING_SHARE if settings.card_policy == "share" else None,
        paused_answerers=settings.answerer_urls if settings.card_policy == "pause_serving" else (),
        gguf_converter=settings.gguf_converter,
    )
