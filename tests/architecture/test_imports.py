"""The rules of the house: stated in pyproject.toml for import-linter, and looked at in fresh interpreters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TORCH = {"torch", "transformers", "peft", "safetensors", "accelerate"}
HTTP = {"fastapi", "starlette", "uvicorn"}


def modules_of(entry_point: str) -> set[str]:
    """Imports a module in a fresh interpreter and returns the top-level packages that came with it."""
    program = f"import sys, {entry_point}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DIANDA_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**environment, "DIANDA_BROKER_URL": "memory://"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_every_import_contract_is_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("entry_point", "needs", "forbidden"),
    [
        ("app.main", {"fastapi", "sqlalchemy", "celery"}, TORCH | {"worker", "uvicorn"}),
        ("worker.main", {"celery", "sqlalchemy", "worker"}, TORCH | HTTP),
        ("app.answerer.main", {"fastapi", "torch"}, {"sqlalchemy", "alembic", "psycopg", "celery", "redis", "worker"}),
        ("app.cli.main", {"typer"}, TORCH | HTTP | {"celery", "worker"}),
    ],
)
def test_a_process_starts_without_what_it_must_not_have(entry_point: str, needs: set[str], forbidden: set[str]) -> None:
    modules = modules_of(entry_point)

    assert needs <= modules
    assert modules & forbidden == set()


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {path.stem for folder in ("app", "worker") for path in (ROOT / folder).rglob("*.py")}

    assert names & {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc"} == set()


def test_the_map_of_the_house_names_every_room() -> None:
    import app

    rooms = {path.name for path in (ROOT / "app").iterdir() if (path / "__init__.py").exists()}

    assert {room for room in rooms if f" {room}" not in (app.__doc__ or "")} == set()
