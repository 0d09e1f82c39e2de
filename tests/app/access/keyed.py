"""An API that asks for keys, and keys for it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.access import service
from app.access.callers import Caller
from app.access.scopes import Scope
from app.db.unit_of_work import unit_of_work
from tests.fixtures.api import Api, running_api
from tests.fixtures.db import Databases

OPERATOR = Caller("operator:test", Scope.ADMIN)
UNKNOWN_SECRET = "dk_" + "x" * 43
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


def make_key(api: Api, scope: Scope, *, name: str | None = None, **wishes: Any) -> service.CreatedKey:
    """Makes a key as an operator does, behind the API's back."""
    with unit_of_work(api.engine) as session:
        return service.create(session, service.KeyWish(name or f"{scope}-key", scope, **wishes), OPERATOR)


def bearer(secret: str) -> dict[str, str]:
    """Returns the header that carries a key."""
    return {"authorization": f"Bearer {secret}"}


@contextmanager
def browser(api: Api) -> Iterator[TestClient]:
    """Yields a client with cookies of its own, in English, that follows no redirect."""
    client = TestClient(api.app, raise_server_exceptions=False, follow_redirects=False, headers={"accept-language": "en"})
    # One event loop for all of a process, as in life.
    client.portal = api.client.portal
    yield client


def send(client: TestClient, page: str, address: str, **fields: str) -> httpx2.Response:
    """Sends a form with the token of a page."""
    found = _TOKEN.search(client.get(page).text)
    assert found
    return client.post(address, data={"form_token": found.group(1), **fields})


def log_in(client: TestClient, secret: str, **fields: str) -> httpx2.Response:
    """Begins a session in the console."""
    return send(client, "/console/login", "/console/login", key=secret, **fields)


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """Returns the body's error."""
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.fixture(scope="module")
def keyed_api(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Api]:
    """Yields one API on SQLite that asks for keys, and keeps the questions of its answers."""
    with (
        databases.database("sqlite") as url,
        running_api(tmp_path_factory.mktemp("data"), url, auth="on", answer_log_questions="text") as running,
    ):
        yield running
