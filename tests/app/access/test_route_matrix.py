"""Every route with every scope. The routes come from the app: one without a declared scope fails."""

import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts

from app.access.scopes import Scope
from app.main import create_app
from app.route_scopes import ROUTE_SCOPES
from tests.app.access.keyed import UNKNOWN_SECRET, bearer, browser, error_of, make_key
from tests.fixtures.api import Api, make_settings

_PARAMETER = re.compile(r"\{[^}]+\}")


@cache
def routes() -> tuple[tuple[str, str], ...]:
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(make_settings(Path(folder), "sqlite://"))
    return tuple(
        (method, str(context.path))
        for context in iter_route_contexts(app.routes)
        for method in sorted((context.methods or set()) - {"HEAD"})
    )


@pytest.fixture(scope="module")
def secrets(keyed_api: Api) -> dict[Scope, str]:
    return {scope: make_key(keyed_api, scope).secret for scope in Scope}


def test_every_route_declares_its_scope_and_no_declaration_is_left_over() -> None:
    assert len(routes()) > 90
    assert set(routes()) == set(ROUTE_SCOPES)


def senders() -> Iterator[tuple[str, Scope | None]]:
    yield "nobody", None
    yield "stranger", None
    yield from ((scope.value, scope) for scope in Scope)


@pytest.mark.parametrize(("method", "path"), routes(), ids=lambda part: part)
@pytest.mark.parametrize(("sender", "scope"), list(senders()), ids=str)
def test_a_route_lets_in_whom_its_scope_allows_and_nobody_else(
    keyed_api: Api, secrets: dict[Scope, str], method: str, path: str, sender: str, scope: Scope | None
) -> None:
    needed = ROUTE_SCOPES[method, path]
    secret = UNKNOWN_SECRET if sender == "stranger" else None if scope is None else secrets[scope]
    with browser(keyed_api) as client:
        response = client.request(method, _PARAMETER.sub("x", path), headers=bearer(secret) if secret else {})

    is_page = path == "/" or path.startswith("/console")
    if needed is None or (scope is not None and scope.includes(needed)):
        assert response.status_code not in (401, 403)
        assert response.headers.get("location", "") != "/console/login"
    elif is_page and method == "GET":
        refused = (303, "/console/login") if scope is None else (303, "/console/ask") if path == "/" else (403, "")
        assert (response.status_code, response.headers.get("location", "").partition("?")[0]) == refused
    elif is_page:
        assert response.status_code == (401 if scope is None else 403)
    else:
        codes = {"nobody": "missing_api_key", "stranger": "invalid_api_key"}
        assert response.status_code == (401 if scope is None else 403)
        assert error_of(response)["code"] == codes.get(sender, "insufficient_scope")


def test_a_route_that_was_forgotten_is_reached_by_nobody(keyed_api: Api, secrets: dict[Scope, str]) -> None:
    keyed_api.app.router.add_route("/forgotten", lambda request: 1 / 0, methods=["GET"])

    with browser(keyed_api) as client:
        response = client.get("/forgotten", headers=bearer(secrets[Scope.ADMIN]))

    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_path")


def test_a_method_that_a_path_does_not_have_needs_the_widest_scope(keyed_api: Api, secrets: dict[Scope, str]) -> None:
    with browser(keyed_api) as client:
        refused = client.patch("/v1/files/x", headers=bearer(secrets[Scope.TRAIN]))
        reached = client.patch("/v1/files/x", headers=bearer(secrets[Scope.ADMIN]))

    assert (refused.status_code, reached.status_code) == (403, 405)


def test_head_is_guarded_as_get_is(keyed_api: Api, secrets: dict[Scope, str]) -> None:
    with browser(keyed_api) as client:
        assert client.head("/v1/files").status_code == 401
        assert client.head("/v1/files", headers=bearer(secrets[Scope.ANSWER])).status_code == 403
