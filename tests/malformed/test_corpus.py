"""Over 2,000 malformed inputs: each gets a small 4xx in our shape, in bounded time and memory, and nothing of it is kept.

`pytest tests/malformed/test_corpus.py -s` says how many there were, and the worst of each bound.
"""

import json
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import func, select

from app.db.base import Base
from app.db.unit_of_work import read_only
from tests.fixtures.api import QUESTION, Api
from tests.malformed import dataset_files, forms, json_bodies, workbook_files
from tests.malformed.malformed_request import MalformedRequest, Outcome

MAX_REPLY_BYTES = 16 * 1024
MAX_SECONDS = 10.0
# Of a process that is client and server at once, so that a body of 50 MB counts at least twice.
MAX_GROWTH_BYTES = 256 * 1024 * 1024
_OUTCOMES: list[Outcome] = []


@pytest.fixture(scope="module")
def corpus(shared_api: Api) -> dict[str, list[MalformedRequest]]:
    file_id = shared_api.file_id()
    answer = shared_api.client.post("/answer", json={"question": QUESTION})
    assert answer.status_code == 200
    ids = {"file_id": file_id, "answer_id": answer.json()["id"], "name": "telecom@production"}
    groups: dict[str, list[MalformedRequest]] = {}
    for one in (
        *dataset_files.malformed_files(),
        *workbook_files.archives_and_workbooks(),
        *forms.broken_forms(),
        *json_bodies.bodies_of(shared_api.app.openapi(), ids),
    ):
        groups.setdefault(one.group, []).append(one)
    return groups


GROUPS = [
    "truncated files",
    "wrong encodings",
    "wrong JSON",
    "wrong values",
    "tables",
    "empty files",
    "random bytes",
    "archives and bombs",
    "workbooks",
    "broken forms",
    json_bodies.GROUP,
]


def test_the_corpus_has_more_than_2000_inputs_in_these_groups(corpus: dict[str, list[MalformedRequest]]) -> None:
    names = [one.name for group in corpus.values() for one in group]

    assert list(corpus) == GROUPS
    assert len(set(names)) == len(names) > 2_000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", GROUPS)
def test_a_malformed_input_gets_a_small_4xx_and_leaves_nothing(
    shared_api: Api,
    corpus: dict[str, list[MalformedRequest]],
    group: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = _kept(shared_api, tmp_path)
    faults: list[str] = []
    for one in corpus[group]:
        outcome, fault = _send(shared_api, one)
        _OUTCOMES.append(outcome)
        if fault is None and _files(shared_api, tmp_path) != before[0]:
            fault = "left files behind"
        if fault is not None:
            faults.append(f"{one.name}: {fault}")
            before = _files(shared_api, tmp_path), before[1]

    assert faults == [], "\n".join(faults)
    assert _kept(shared_api, tmp_path) == before


def test_what_the_corpus_cost_is_told() -> None:
    statuses = Counter(one.status for one in _OUTCOMES)
    figures = {
        "inputs": len(_OUTCOMES),
        "statuses": {str(status): statuses[status] for status in sorted(statuses)},
        "seconds": round(sum(one.seconds for one in _OUTCOMES), 1),
        "slowest_s": round(max(one.seconds for one in _OUTCOMES), 2),
        "slowest": max(_OUTCOMES, key=lambda one: one.seconds).name,
        "largest_reply_bytes": max(one.reply_bytes for one in _OUTCOMES),
        "largest_reply": max(_OUTCOMES, key=lambda one: one.reply_bytes).name,
        "peak_growth_mib": max(one.peak_growth_bytes for one in _OUTCOMES) >> 20,
        "peak_growth": max(_OUTCOMES, key=lambda one: one.peak_growth_bytes).name,
    }
    print(json.dumps(figures, ensure_ascii=False))
    assert len(_OUTCOMES) > 0


def _send(api: Api, one: MalformedRequest) -> tuple[Outcome, str | None]:
    content = one.content()
    headers = dict(one.headers) if one.content_type is None else {**one.headers, "content-type": one.content_type}
    resident = _resident_bytes(resets_peak=True)
    started = time.perf_counter()
    response = api.client.request(one.method, one.path, content=content, headers=headers)
    seconds = time.perf_counter() - started
    growth = _resident_bytes(peak=True) - resident
    outcome = Outcome(one.name, response.status_code, seconds, len(response.content), growth)
    return outcome, _fault_of(outcome, response)


def _fault_of(outcome: Outcome, response: httpx2.Response) -> str | None:
    if not 400 <= outcome.status < 500:
        return f"status {outcome.status}: {response.text[:200]}"
    if outcome.reply_bytes > MAX_REPLY_BYTES:
        return f"a reply of {outcome.reply_bytes} bytes"
    if outcome.seconds > MAX_SECONDS:
        return f"{outcome.seconds:.1f} s"
    if outcome.peak_growth_bytes > MAX_GROWTH_BYTES:
        return f"{outcome.peak_growth_bytes >> 20} MiB more"
    try:
        error = response.json()["error"]
    except (ValueError, KeyError):
        return f"not our shape: {response.text[:100]}"
    if set(error) - {"details"} != {"message", "type", "param", "code"} or not error["message"] or not error["code"]:
        return f"not our shape: {sorted(error)}"
    return None


def _files(api: Api, temporary: Path) -> list[str]:
    return sorted(str(path) for folder in (api.settings.data_dir, temporary) for path in folder.rglob("*"))


def _kept(api: Api, temporary: Path) -> tuple[list[str], dict[str, int]]:
    with read_only(api.engine) as session:
        rows = {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in Base.metadata.sorted_tables}
    return _files(api, temporary), rows


def _resident_bytes(*, resets_peak: bool = False, peak: bool = False) -> int:
    """Returns what this process holds now, or the most since the peak was last reset (Linux)."""
    if resets_peak:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(rf"^{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
