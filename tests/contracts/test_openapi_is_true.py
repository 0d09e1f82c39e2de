"""Requests that schemathesis makes of our own OpenAPI document, right ones and wrong ones: no 5xx, nothing undescribed.

The ids in paths and bodies are half invented and half those of a file, job, adapter, alias, evaluation, … that are there.
`CONTRACT_EXAMPLES=200 pytest tests/contracts/test_openapi_is_true.py -s` is the long run; -s says how many cases there were.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.access.scopes import Scope
from app.main import create_app
from tests.app.access.keyed import bearer, keyed_api, make_key
from tests.app.experiments.experiment_help import advance, finish_next, post
from tests.fixtures.api import BASE, QUESTION, Api, make_settings

__all__ = ["keyed_api"]
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "10"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ALIAS = "telecom@production"
_CASES: Counter[int] = Counter()


def operations() -> dict[str, APIOperation[Any, Any, Any, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        document = create_app(make_settings(Path(folder), "sqlite://")).openapi()
    schema = schemathesis.openapi.from_dict(document)
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    return {f"{operation.method.upper()} {operation.path}": operation for operation in found}


OPERATIONS = operations()


@pytest.fixture(scope="module")
def secret(keyed_api: Api) -> str:
    return make_key(keyed_api, Scope.ADMIN, name="contract").secret


@pytest.fixture(scope="module")
def client(keyed_api: Api, secret: str) -> Iterator[TestClient]:
    keyed_api.client.headers.update(bearer(secret))
    yield keyed_api.client
    del keyed_api.client.headers["authorization"]


@pytest.fixture(scope="module")
def made_before(keyed_api: Api) -> dict[str, str]:
    """Returns the ids that were made last; an operation that may change what they name takes them away."""
    return {}


def _make(api: Api, client: TestClient) -> dict[str, str]:
    experiment = post(api, {"kind": "ramp", "sizes": [8]}).json()
    while finish_next(api, right=10):
        advance(api)
    (arm,) = client.get(f"/v1/experiments/{experiment['id']}").json()["arms"]
    made = {
        "file_id": experiment["training_file"],
        "job_id": arm["job"],
        "name": arm["adapter"],
        "evaluation_id": arm["evaluation"],
        "experiment_id": experiment["id"],
        "export_id": client.post("/v1/exports", json={"model": arm["adapter"], "format": "peft"}).json()["id"],
        "answer_id": client.post("/answer", json={"question": QUESTION}).json()["id"],
        "key_id": client.post("/v1/keys", json={"name": f"k{experiment['id'][-8:]}", "scope": "answer"}).json()["id"],
    }
    moved = client.put(f"/v1/aliases/{ALIAS}", json={"to": arm["adapter"]})
    assert moved.status_code == 200, moved.text
    return made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_answers_otherwise_than_described(
    keyed_api: Api, client: TestClient, made_before: dict[str, str], name: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[name]
    known = dict(made_before) or _make(keyed_api, client)
    made_before.clear()
    if operation.method == "get":
        made_before.update(known)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), is_known=st.booleans())
    def check(case: Case, is_known: bool) -> None:
        if is_known:
            _fill_in(case, known)
        _check(keyed_api, case)

    try:
        check()
    except Unsatisfiable:
        # An operation without parameters and body cannot be asked wrongly.
        assert mode is GenerationMode.NEGATIVE


def test_how_many_cases_there_were() -> None:
    print(json.dumps({"cases": _CASES.total(), "statuses": {str(status): _CASES[status] for status in sorted(_CASES)}}))
    assert _CASES.total() > 0


def _fill_in(case: Case, known: Mapping[str, Any]) -> None:
    for name in case.path_parameters or {}:
        if name == "name" and "/aliases/" in case.path:
            case.path_parameters[name] = ALIAS
        else:
            case.path_parameters[name] = known[name]
    if isinstance(case.body, dict):
        for name, value in (
            ("model", BASE if case.path == "/v1/experiments" else known["name"]),
            ("training_file", known["file_id"]),
            ("test_file", known["file_id"]),
            ("file", known["file_id"]),
        ):
            if isinstance(case.body.get(name), str) and case.media_type == "application/json":
                case.body[name] = value


def _check(api: Api, case: Case) -> None:
    kwargs = case.as_transport_kwargs(base_url="http://testserver")
    sent = requests.Request(**{name: value for name, value in kwargs.items() if name in _OF_A_REQUEST}).prepare()
    headers = {name: value for name, value in sent.headers.items() if name.lower() != "authorization"}
    response = api.client.request(sent.method or "GET", str(sent.url), content=sent.body, headers=headers)
    _CASES[response.status_code] += 1
    case.validate_response(response, checks=CHECKS)


_OF_A_REQUEST = {"method", "url", "headers", "files", "data", "params", "cookies", "json"}
