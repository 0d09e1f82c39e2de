"""Where no keys are asked for: on loopback alone, said loudly, and closed to other sites' pages."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.settings import Settings
from tests.app.access.keyed import error_of
from tests.fixtures.api import Api, running_api
from tests.fixtures.db import Databases

LOOPBACK, LAN = ("127.0.0.1", 40000), ("192.168.1.9", 40000)


def settings(**fields: Any) -> Settings:
    return Settings(_env_file=None, **fields)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("auth", "host", "asks"),
    [
        ("auto", "127.0.0.1", False),
        ("auto", "::1", False),
        ("auto", "localhost", False),
        ("auto", "0.0.0.0", True),
        ("auto", "10.0.0.7", True),
        ("auto", "::", True),
        ("auto", "api.example", True),
        ("on", "127.0.0.1", True),
        ("off", "127.0.0.1", False),
    ],
)
def test_keys_are_asked_for_unless_only_this_machine_reaches_the_api(auth: str, host: str, asks: bool) -> None:
    assert settings(auth=auth, host=host).asks_for_keys is asks


def test_keys_are_never_off_on_an_address_that_others_reach() -> None:
    with pytest.raises(ValidationError, match=r"DIANDA_HOST=127\.0\.0\.1"):
        settings(auth="off", host="0.0.0.0")


def test_a_process_that_is_started_by_this_one_does_not_get_the_terminals_key() -> None:
    assert "DIANDA_API_KEY" not in settings(api_key="dk_x").environment()


@pytest.fixture(scope="module")
def auto_api(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Any:
    with databases.database("sqlite") as url, running_api(tmp_path_factory.mktemp("data"), url, auth="auto") as running:
        yield running


def test_a_request_from_another_host_needs_a_key_whatever_the_settings_say(auto_api: Api) -> None:
    at_home = TestClient(auto_api.app, client=LOOPBACK, base_url="http://127.0.0.1")
    # A proxy on this host brings it, or the server was started on 0.0.0.0.
    from_afar = TestClient(auto_api.app, client=LAN, base_url="http://127.0.0.1")
    to_the_lan = TestClient(auto_api.app, client=LOOPBACK, base_url="http://192.168.1.9")

    assert [client.get("/v1/files").status_code for client in (at_home, from_afar, to_the_lan)] == [200, 401, 401]


@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs/x/cancel", "/v1/files", "/answer"])
@pytest.mark.parametrize("sender", ["cross-site", "same-site"])  # the same site: another port of this host
def test_a_page_of_another_site_changes_nothing(shared_api: Api, path: str, sender: str) -> None:
    response = shared_api.client.post(path, headers={"sec-fetch-site": sender})

    assert (response.status_code, error_of(response)["code"]) == (403, "cross_site_request")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("dianda.localhost", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("[broken", 403),
    ],
)
def test_a_name_that_another_site_pointed_here_is_refused(shared_api: Api, host: str, status: int) -> None:
    assert shared_api.client.get("/v1/files", headers={"host": host}).status_code == status


def test_it_is_said_in_the_log_the_pages_and_the_health(
    tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr("app.main._log.warning", lambda event, **facts: logged.append(event))
    with databases.database("sqlite") as url, running_api(tmp_path, url) as api:
        page = api.client.get("/", headers={"accept-language": "en"}).text
        health = api.client.get("/health/ready").json()

    assert "no_api_keys_asked_for" in logged
    assert "No API keys are asked for" in page
    assert health["access"] == "open"


def test_an_api_that_asks_for_keys_says_so_in_its_health(keyed_api: Api) -> None:
    assert keyed_api.client.get("/health/ready").json()["access"] == "keys"


def test_a_key_that_nobody_asked_for_does_no_harm(shared_api: Api) -> None:
    assert shared_api.client.get("/v1/files", headers={"authorization": "Bearer none"}).status_code == 200
