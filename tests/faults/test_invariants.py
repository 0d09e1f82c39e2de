"""The checker of the fault suite, before histories that are whole and histories that are broken."""

import dataclasses
from typing import Any

import pytest

from tests.faults.house import Outage
from tests.faults.invariants import RECOVERY_LIMIT_S, History, JobStory, Recovery, find_violations
from tests.faults.visitors import Probe

TWIN = JobStory(
    id="ftjob-twin",
    recipe="A",
    status="succeeded",
    adapters=("twin:1",),
    event_numbers=(1, 2, 3),
    ends_told=1,
    losses=("1,0.5,2.0", "2,1,1.5"),
    weights_sha256="ab",
)
JOB = dataclasses.replace(TWIN, id="ftjob-1", adapters=("one:1",))
FAILED = JobStory(
    id="ftjob-2",
    recipe="A",
    status="failed",
    error_code="worker_lost",
    error_message="Lost.",
    event_numbers=(1, 2),
    ends_told=1,
)
ANSWERED = Probe(10.0, 10.1, "怎么办", "one:1", "取消方式_1")
WHOLE = History(
    accepted={"a": "ftjob-1", "b": "ftjob-2"},
    jobs=[JOB, FAILED],
    twins={"A": TWIN},
    probes=[ANSWERED, Probe(20.0, 20.5, "怎么办", error="503")],
    known_answers={("one:1", "怎么办"): "取消方式_1"},
    outages=[Outage("answerer", 20.2, 25.0)],
    recoveries=[Recovery("kill -9 api", 44.0)],
)


def with_job(**changes: Any) -> History:
    return dataclasses.replace(WHOLE, jobs=[dataclasses.replace(JOB, **changes), FAILED])


def test_a_whole_history_has_no_violation() -> None:
    assert find_violations(WHOLE) == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (dataclasses.replace(WHOLE, jobs=[FAILED]), "lost: job ftjob-1"),
        (dataclasses.replace(WHOLE, accepted={"b": "ftjob-2"}), "doubled: job ftjob-1"),
        (dataclasses.replace(WHOLE, accepted={**WHOLE.accepted, "c": "ftjob-1"}), "shared: job ftjob-1"),
        (with_job(status="running", ends_told=0, adapters=()), "no single end: job ftjob-1"),
        (with_job(ends_told=2), "no single end: job ftjob-1"),
        (with_job(adapters=()), "not one adapter: job ftjob-1"),
        (with_job(adapters=("one:1", "one:2")), "not one adapter: job ftjob-1"),
        (with_job(status="cancelled"), "an adapter of a job that did not succeed"),
        (with_job(status="failed", adapters=()), "no clear error: job ftjob-1"),
        (with_job(event_numbers=(1, 3)), "events with gaps"),
        (with_job(event_numbers=(1, 2, 2)), "events with gaps"),
        (with_job(event_numbers=(2, 1)), "events with gaps"),
        (with_job(losses=None), "no losses"),
        (with_job(losses=("1,0.5,2.0", "1,0.5,2.0", "2,1,1.5")), "a step trained twice"),
        (with_job(losses=("1,0.5,2.0",)), "other losses than its twin's: job ftjob-1, first at their number"),
        (with_job(losses=("1,0.5,2.0", "2,1,1.4")), "other losses than its twin's: job ftjob-1, first at 2,1,1.4"),
        (with_job(weights_sha256="cd"), "other weights than its twin's"),
        (dataclasses.replace(WHOLE, broken_folders=["checkpoints/x/1-1"]), "half a folder: checkpoints/x/1-1"),
        (dataclasses.replace(WHOLE, missing_files=["files/file-1"]), "a file is gone: files/file-1"),
        (dataclasses.replace(WHOLE, stray_processes=["77"]), "a training process outlived its job: 77"),
        (dataclasses.replace(WHOLE, outages=[]), "no answer though all was up: 503"),
        (dataclasses.replace(WHOLE, outages=[Outage("api", 1.0, 19.9)]), "no answer though all was up: 503"),
        (dataclasses.replace(WHOLE, probes=[dataclasses.replace(ANSWERED, answer="11.9")]), "a wrong answer: one:1"),
        (dataclasses.replace(WHOLE, probes=[dataclasses.replace(ANSWERED, adapter="two:1")]), "a wrong answer: two:1"),
        (dataclasses.replace(WHOLE, recoveries=[Recovery("kill -9 api", RECOVERY_LIMIT_S + 1)]), "slow: kill -9 api took"),
    ],
)
def test_a_broken_history_is_seen(broken: History, said: str) -> None:
    assert any(line.startswith(said) for line in find_violations(broken)), find_violations(broken)
