"""Names that outlive a version: error codes, settings, the task's name, the routes."""

import importlib
import pkgutil
import re
from collections import Counter
from pathlib import Path

import pytest

import app
from app.errors import AppError, Kind
from app.http.errors import _STATUS_OF_CODE, STATUS_OF
from app.jobs.queue import LOOK_TASK
from app.main import create_app
from app.settings import Settings
from tests.fixtures.api import make_settings

ROOT = Path(__file__).resolve().parents[2]
# The general kinds share no code with any other; a subclass may keep its parent's on purpose.
INHERITS_ITS_CODE = {"Internal", "RefusedByAnswerer"}


def every_error() -> set[type[AppError]]:
    for module in pkgutil.walk_packages(app.__path__, "app."):
        if ".engine." not in module.name and module.name not in ("app.answerer.main", "app.answerer.room"):
            importlib.import_module(module.name)
    found: set[type[AppError]] = set()
    waiting = [AppError]
    while waiting:
        error = waiting.pop()
        if error.__module__.startswith("app."):
            found.add(error)
        waiting += error.__subclasses__()
    return found


ERRORS = sorted(every_error(), key=lambda error: error.__name__)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_has_a_kind_with_a_status_and_a_stable_code(error: type[AppError]) -> None:
    assert error.kind in STATUS_OF
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
    assert error.__doc__


def test_no_two_errors_share_a_code() -> None:
    codes = Counter(error.code for error in ERRORS if error.__name__ not in INHERITS_ITS_CODE)

    assert {code: count for code, count in codes.items() if count > 1} == {}


def test_every_kind_has_a_status() -> None:
    assert set(STATUS_OF) == set(Kind)


def test_a_status_of_a_code_belongs_to_an_error_that_exists() -> None:
    assert set(_STATUS_OF_CODE) <= {error.code for error in ERRORS}


def test_only_what_may_succeed_later_is_retryable() -> None:
    assert {error.kind for error in ERRORS if error.retryable} == {Kind.UNAVAILABLE}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_described(name: str) -> None:
    description = Settings.model_fields[name].description

    assert description is not None and description.endswith(".")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_in_the_readmes_table(name: str) -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]

    assert any(f"DIANDA_{name.upper()}`" in row for row in rows)


def test_the_readme_names_no_setting_that_does_not_exist() -> None:
    named = set(re.findall(r"DIANDA_[A-Z0-9_]+[A-Z0-9]", (ROOT / "README.md").read_text()))

    assert named - {f"DIANDA_{name.upper()}" for name in Settings.model_fields} == set()


def test_the_workers_task_has_the_name_that_the_api_rings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DIANDA_BROKER_URL", "memory://")
    monkeypatch.setenv("DIANDA_DATA_DIR", str(tmp_path))
    from worker.main import app as celery

    assert LOOK_TASK == "jobs.look"
    assert LOOK_TASK in celery.tasks
    assert celery.conf.worker_pool == "prefork" and celery.conf.worker_concurrency == 1


def test_every_route_that_takes_a_body_refuses_unknown_fields(tmp_path: Path) -> None:
    document = create_app(make_settings(tmp_path, "sqlite://")).openapi()

    schemas = document["components"]["schemas"]
    taken = {
        media["schema"]["$ref"].rpartition("/")[2]
        for path in document["paths"].values()
        for operation in path.values()
        for kind, media in operation.get("requestBody", {}).get("content", {}).items()
        if kind == "application/json" and "$ref" in media["schema"]
    }
    assert len(taken) >= 6
    assert {name for name in taken if schemas[name].get("additionalProperties") is not False} == set()


def test_every_operation_says_what_its_errors_are(tmp_path: Path) -> None:
    document = create_app(make_settings(tmp_path, "sqlite://")).openapi()

    silent = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if not path.startswith("/health") and not {"404", "422", "500", "503"} <= set(operation["responses"])
    }
    assert silent == set()
