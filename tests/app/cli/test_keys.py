import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.db.engine import make_engine
from app.db.migrating import upgrade
from tests.app.cli.terminal import Dianda, Ran
from tests.fixtures.api import Api, running_api, serving


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    monkeypatch.setenv("DIANDA_DATABASE_URL", url)
    return url


@pytest.fixture
def migrated(database: str) -> str:
    engine = make_engine(database)
    upgrade(engine)
    engine.dispose()
    return database


def key(*words: str) -> Ran:
    result = CliRunner().invoke(cli, ["key", *words])
    return Ran(result.exit_code, result.stdout, result.stderr)


def test_the_secret_is_all_that_stdout_has(migrated: str) -> None:
    made = key("create", "crm-app", "--scope", "answer")

    assert made.code == 0
    assert made.out.strip().startswith("dk_") and len(made.out.split()) == 1
    assert made.out.strip() not in key("list").out + key("log").out


def test_a_key_is_listed_revoked_and_remembered(migrated: str) -> None:
    made = key("create", "crm-app", "--scope", "train", "--days", "30", "--json").json

    revoked = key("revoke", "crm-app", "--json").json
    listed = key("list", "--json").json["data"]
    acts = [act["act"] for act in key("log", "--json").json["data"]]

    assert made["expires_at"] - made["created_at"] == 30 * 86_400
    assert [one["id"] for one in listed] == [made["id"]] and listed[0]["revoked_at"] == revoked["revoked_at"] is not None
    assert acts == ["key.revoked", "key.created"]


def test_an_unknown_key_cannot_be_revoked(migrated: str) -> None:
    refused = key("revoke", "nobody")

    assert refused.code == 1 and "dianda key list" in refused.err


def test_a_database_without_tables_is_said(database: str) -> None:
    refused = key("create", "crm-app", "--scope", "answer")

    assert refused.code == 1 and "dianda migrate" in refused.err


@pytest.fixture
def asking(tmp_path: Path, migrated: str) -> Iterator[tuple[Api, Dianda]]:
    with running_api(tmp_path / "data", migrated, auth="on") as api, serving(api.app) as url:
        yield api, Dianda(url)


def test_a_command_sends_the_key_of_its_environment_or_its_option(
    asking: tuple[Api, Dianda], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dianda = asking
    secret = json.loads(key("create", "desk", "--scope", "train", "--json").out)["secret"]

    without = dianda("data", "list", "--json")
    with_option = dianda("--api-key", secret, "data", "list", "--json")
    monkeypatch.setenv("DIANDA_API_KEY", secret)
    with_environment = dianda("data", "list", "--json")

    assert (without.code, without.json["error"]["code"]) == (1, "missing_api_key")
    assert (with_option.code, with_environment.code) == (0, 0)
