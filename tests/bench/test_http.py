"""The benchmark of HTTP: that it reads its load generator rightly, and that the scripted engine is one."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.answers.backend import Overloaded
from app.answers.model_names import ModelNames
from app.db.engine import make_engine
from app.ml.model_store import ModelStore
from bench.http.__main__ import _overload, middle, parse_options, table
from bench.http.deployment import MODEL, prepare_database
from bench.http.load import read_outcome
from bench.http.scripted_room import PASS_MS, WIDTH, ScriptedRoom, create_app

# Two answers of 1 ms, one of 1.5 s; one refusal of 2 ms and one of 60 ms; a fault.
LINE = '{"seconds":2.0,"broken":1,"latencies_10us":[[200,100,2],[429,6000,1],[200,150000,1],[500,300,1],[429,200,1]]}'


def test_latencies_are_kept_apart_by_status() -> None:
    outcome = read_outcome(LINE)

    assert outcome.of(200).tolist() == [1.0, 1.0, 1500.0]
    assert outcome.of(429).tolist() == [2.0, 60.0]
    assert outcome.of(503).tolist() == []
    assert (outcome.requests_per_s, outcome.answers_per_s()) == (3.0, 1.5)


def test_a_run_without_any_reply_is_read() -> None:
    outcome = read_outcome('{"seconds":1.0,"broken":7,"latencies_10us":[]}')

    assert (outcome.requests_per_s, outcome.broken) == (0, 7)


def test_late_answers_slow_refusals_and_faults_are_counted() -> None:
    found = _overload(read_outcome(LINE), 1.0)

    assert (found["late"], found["refused_within_50_ms"], found["other"], found["broken"]) == (1, 0.5, 1, 1)
    assert found["refused_share"] == pytest.approx(0.4)


def test_rounds_are_told_by_their_median_and_their_edges() -> None:
    assert middle([{"p50_ms": value} for value in (3.0, 1.0, 2.0)]) == {"p50_ms": 2.0, "p50_ms_lowest_to_highest": [1.0, 3.0]}


def test_the_table_tells_every_part() -> None:
    overload = middle([_overload(read_outcome(LINE), 1.0)])
    report = {
        "one_connection": {"p50_ms": 1.5, "p99_ms": 2.5},
        "saturated": {
            "requests_per_s": 1200.0,
            "p50_ms": 17.0,
            "api_cpu_ms_a_request": 0.6,
            "answerer_cpu_ms_a_request": 0.2,
            "api_cores": 0.9,
        },
        "http_at_twice_its_saturation": overload,
        "engine_at_twice_its_saturation": overload,
        "answer_log": {"answers": 10, "logged": 10},
    }

    assert [line.count("|") for line in table(report).splitlines()] == [3] * 9


def test_the_answer_log_is_on_unless_told_otherwise() -> None:
    assert (parse_options([]).no_answer_log, parse_options(["--no-answer-log"]).no_answer_log) == (False, True)


def test_the_scripted_engine_refuses_what_is_beyond_its_bound() -> None:
    room = ScriptedRoom("base", pass_ms=5, width=1, max_pending=2)
    ask = {"base_model": "base", "checksum": None, "alternatives": 0}

    async def flood() -> list[object]:
        return await asyncio.gather(*(room.answer(["问"], **ask) for _ in range(3)), return_exceptions=True)

    results = asyncio.run(flood())

    assert [isinstance(result, Overloaded) for result in results] == [False, False, True]


def test_the_alias_that_is_asked_for_stands_for_an_adapter(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bench.db'}"

    prepare_database(url, base_model="gemma-3-270m")

    engine = make_engine(url)
    names = ModelNames(engine, ModelStore(tmp_path, {}))
    assert asyncio.run(names.resolve(MODEL)).adapter_id == "telecom:1"
    engine.dispose()


def test_the_scripted_answerer_answers_as_the_real_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASS_MS, "0")
    monkeypatch.setenv(WIDTH, "1")
    with TestClient(create_app()) as client:
        body = {"questions": ["问", "题"], "base_model": "gemma-3-270m", "adapter_checksum": "c" * 64, "alternatives": 0}
        results = client.post("/answer", json=body).json()["results"]

    assert len(results) == 2
    assert all(code["in_vocabulary"] for code in results[0]["best"]["codes"])
    assert np.isclose(results[0]["best"]["confidence"], 0.94)
