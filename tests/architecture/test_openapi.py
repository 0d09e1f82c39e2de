"""The HTTP surface, held against docs/openapi.json: a change of it is seen in review."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from app.main import create_app
from app.settings import Settings

SNAPSHOT = Path(__file__).parents[2] / "docs" / "openapi.json"
_METHODS = {"get", "post", "put", "delete"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("data"))).openapi()


def _operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    ]


def test_the_surface_is_the_one_that_is_described(document: dict[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_OPENAPI"):
        SNAPSHOT.write_text(text)
    assert SNAPSHOT.read_text() == text, "The surface changed. Look at it, then: UPDATE_OPENAPI=1 pytest tests/architecture"


def test_every_operation_says_what_it_does_and_how_it_fails(document: dict[str, Any]) -> None:
    operations = _operations(document)
    assert len(operations) > 30
    undescribed = [name for name, operation in operations if not operation.get("description")]
    without_errors = [
        name
        for name, operation in operations
        if not name.split()[1].startswith("/health")
        and not {"400", "404", "409", "413", "422", "429", "500", "503"} <= set(operation["responses"])
    ]
    assert (undescribed, without_errors) == ([], [])


def test_every_operation_has_a_name_of_its_own_that_a_program_can_bear(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in _operations(document)]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name) or len(name) > 40] == []


def test_every_example_is_a_body_that_the_description_allows(document: dict[str, Any]) -> None:
    shown = 0
    for schema in document["components"]["schemas"].values():
        validator = jsonschema_rs.validator_for({**schema, "components": document["components"]})
        for example in schema.get("examples", []):
            shown += 1
            validator.validate(example)
    assert shown > 12


def test_every_json_body_has_an_example(document: dict[str, Any]) -> None:
    missing = []
    for name, operation in _operations(document):
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        if "$ref" in schema:
            component = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            if not component.get("examples"):
                missing.append(name)
    assert missing == []
