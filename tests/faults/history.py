"""Reads a history out of the database and the blobs, past everything that may be broken."""

import contextlib
from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import select

from app.adapters.models import Adapter
from app.datasets.models import Dataset
from app.db.unit_of_work import read_only
from app.durable import BrokenFolder, sha256_of_file, verify_folder
from app.jobs.models import Checkpoint, Job, JobEvent
from tests.faults.house import House
from tests.faults.invariants import TERMINAL, History, JobStory, Recovery
from tests.faults.visitors import Asker


@dataclass
class Books:
    """What the driver notes while it goes."""

    accepted: dict[str, str] = field(default_factory=dict)
    recipes: dict[str, str] = field(default_factory=dict)
    """Job -> recipe."""
    twins: dict[str, JobStory] = field(default_factory=dict)
    known_answers: dict[tuple[str, str], str] = field(default_factory=dict)
    recoveries: list[Recovery] = field(default_factory=list)


def read_history(house: House, books: Books, asker: Asker) -> History:
    """Returns all that is there now."""
    blobs = house.settings.blobs_dir
    stories, broken, missing = [], [], []
    with read_only(house.engine) as session:
        adapters = defaultdict(list)
        for adapter in session.scalars(select(Adapter)):
            adapters[adapter.job_id].append(adapter)
        events = defaultdict(list)
        for event in session.scalars(select(JobEvent).order_by(JobEvent.job_id, JobEvent.number)):
            events[event.job_id].append(event)
        files = {dataset.id: dataset.blob_key for dataset in session.scalars(select(Dataset))}
        missing += [key for key in files.values() if not (blobs / key).is_file()]
        for checkpoint in session.scalars(select(Checkpoint)):
            if not _verifies(house, checkpoint.blob_key, checkpoint.checksum):
                broken.append(checkpoint.blob_key)
        for job in session.scalars(select(Job)):
            own = adapters[job.id]
            broken += [adapter.blob_key for adapter in own if not _verifies(house, adapter.blob_key, adapter.checksum)]
            csv = files.get((job.result_file_ids or {}).get("loss.csv", ""))
            losses = None
            if csv is not None and (blobs / csv).is_file():
                losses = tuple((blobs / csv).read_text().splitlines()[1:])
            weights = None
            for adapter in own:
                with contextlib.suppress(FileNotFoundError):
                    weights = sha256_of_file(blobs / adapter.blob_key / "adapter_model.safetensors")
            stories.append(
                JobStory(
                    id=job.id,
                    recipe=books.recipes.get(job.id, next(iter(books.twins), "")),
                    status=job.status,
                    error_code=job.error_code,
                    error_message=job.error_message,
                    adapters=tuple(adapter.id for adapter in own),
                    event_numbers=tuple(event.number for event in events[job.id]),
                    ends_told=sum((event.data or {}).get("status") in TERMINAL for event in events[job.id]),
                    losses=losses,
                    weights_sha256=weights,
                )
            )
    return History(
        accepted=dict(books.accepted),
        jobs=stories,
        twins=books.twins,
        broken_folders=broken,
        missing_files=missing,
        stray_processes=[str(process.pid) for process in house.trainers()],
        probes=list(asker.probes),
        known_answers=books.known_answers,
        outages=house.outages,
        recoveries=books.recoveries,
    )


def _verifies(house: House, key: str, checksum: str) -> bool:
    try:
        return verify_folder(house.settings.blobs_dir / key) == checksum
    except BrokenFolder:
        return False
