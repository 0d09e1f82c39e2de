"""What must be true after every round, of a history that was read from the database, the blobs and the visitors' books."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.house import Outage
from tests.faults.visitors import Probe

TERMINAL = ("succeeded", "failed", "cancelled")
# The product's promise on a machine of its own; a machine that others load as well may be given more.
RECOVERY_LIMIT_S = float(os.environ.get("RECOVERY_LIMIT_S", "45"))


@dataclass(frozen=True)
class JobStory:
    """One job's row and all that hangs on it."""

    id: str
    recipe: str
    """Jobs of the same recipe must end with the same losses and weights."""
    status: str
    error_code: str | None = None
    error_message: str | None = None
    adapters: tuple[str, ...] = ()
    """Every adapter that names this job."""
    event_numbers: tuple[int, ...] = ()
    ends_told: int = 0
    """Events that move it to a terminal state."""
    losses: tuple[str, ...] | None = None
    """The lines of loss.csv, without the head."""
    weights_sha256: str | None = None


@dataclass(frozen=True)
class Recovery:
    """Seconds from a kill -9 to the work going on."""

    what: str
    seconds: float


@dataclass(frozen=True)
class History:
    """All that happened so far."""

    accepted: Mapping[str, str]
    """A visitor's key -> the job that it was told of."""
    jobs: Sequence[JobStory]
    twins: Mapping[str, JobStory]
    """Recipe -> the same job, left alone."""
    broken_folders: Sequence[str] = ()
    """Blob folders that a row names and that do not verify."""
    missing_files: Sequence[str] = ()
    stray_processes: Sequence[str] = ()
    """Training processes though every job has ended."""
    probes: Sequence[Probe] = ()
    known_answers: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(adapter, question) -> answer."""
    outages: Sequence[Outage] = ()
    recoveries: Sequence[Recovery] = ()


def find_violations(history: History) -> list[str]:
    """Returns a line for each thing that must not be; an empty list is what the suite is for."""
    return [
        *_jobs_lost_or_doubled(history),
        *(line for job in history.jobs for line in _of_job(job, history.twins[job.recipe])),
        *(f"half a folder: {name} does not verify, and a row names it" for name in history.broken_folders),
        *(f"a file is gone: {name}, and a row names it" for name in history.missing_files),
        *(f"a training process outlived its job: {name}" for name in history.stray_processes),
        *_of_probes(history),
        *(
            f"slow: {recovery.what} took {recovery.seconds:.1f} s to recover, more than {RECOVERY_LIMIT_S:g}"
            for recovery in history.recoveries
            if recovery.seconds > RECOVERY_LIMIT_S
        ),
    ]


def _jobs_lost_or_doubled(history: History) -> Iterator[str]:
    there = {job.id for job in history.jobs}
    told = Counter(history.accepted.values())
    for key, job_id in history.accepted.items():
        if job_id not in there:
            yield f"lost: job {job_id} was accepted for {key} and is not there"
        if told[job_id] > 1:
            yield f"shared: job {job_id} was given to {told[job_id]} requests"
    for job_id in there - set(told):
        yield f"doubled: job {job_id} is there and nobody was told of it"


def _of_job(job: JobStory, twin: JobStory) -> Iterator[str]:
    if job.status not in TERMINAL or job.ends_told != 1:
        yield f"no single end: job {job.id} is {job.status} and has ended {job.ends_told} times"
    if list(job.event_numbers) != list(range(1, len(job.event_numbers) + 1)):
        yield f"events with gaps or out of order: job {job.id} has {list(job.event_numbers)}"
    if job.status == "succeeded":
        if len(job.adapters) != 1:
            yield f"not one adapter: job {job.id} has {list(job.adapters)}"
        yield from _of_training(job, twin)
    elif job.adapters:
        yield f"an adapter of a job that did not succeed: {job.id} has {list(job.adapters)}"
    if job.status == "failed" and not (job.error_code and job.error_message):
        yield f"no clear error: job {job.id} has failed and does not say why"


def _of_training(job: JobStory, twin: JobStory) -> Iterator[str]:
    if job.losses is None:
        yield f"no losses: job {job.id} has no loss.csv"
        return
    steps = [int(line.partition(",")[0]) for line in job.losses]
    if steps != list(range(1, len(steps) + 1)):
        yield f"a step trained twice or never: job {job.id} has the steps {steps}"
    if job.losses != twin.losses:
        differing = next((a for a, b in zip(job.losses, twin.losses or (), strict=False) if a != b), "their number")
        yield f"other losses than its twin's: job {job.id}, first at {differing}"
    if job.weights_sha256 != twin.weights_sha256:
        yield f"other weights than its twin's: job {job.id}"


def _of_probes(history: History) -> Iterator[str]:
    for probe in history.probes:
        if probe.error is None:
            known = history.known_answers.get((str(probe.adapter), probe.question))
            if known is None or probe.answer != known:
                yield f"a wrong answer: {probe.adapter} said {probe.answer!r} and not {known!r} to {probe.question!r}"
        elif not is_explained(probe, history.outages):
            yield f"no answer though all was up: {probe.error} after {probe.ended - probe.began:.1f} s, at {probe.began:.1f}"


def is_explained(probe: Probe, outages: Sequence[Outage]) -> bool:
    """Says whether something that an answer needs was down while a question waited."""
    return any(outage.began <= probe.ended and probe.began <= outage.ended for outage in outages)
