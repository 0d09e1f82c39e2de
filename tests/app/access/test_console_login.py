import re
import time
from pathlib import Path

import pytest

from app.access import service
from app.access.scopes import Scope
from app.access.sessions import COOKIE, session_secret
from app.db.unit_of_work import unit_of_work
from tests.app.access.keyed import OPERATOR, UNKNOWN_SECRET, browser, log_in, make_key, send
from tests.fixtures.api import BASE, QUESTION, Api


def test_a_visitor_without_a_session_is_led_to_the_login_and_back(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        led = client.get("/console/jobs?after=x")
        back = log_in(client, make_key(keyed_api, Scope.TRAIN, name="led").secret, next="/console/jobs?after=x")

    assert led.headers["location"] == "/console/login?next=/console/jobs%3Fafter%3Dx"
    assert back.headers["location"] == "/console/jobs?after=x"


def test_the_session_is_a_cookie_that_no_script_reads_and_that_is_not_the_key(keyed_api: Api) -> None:
    secret = make_key(keyed_api, Scope.TRAIN, name="cookie").secret
    with browser(keyed_api) as client:
        given = log_in(client, secret).headers["set-cookie"]

    cookie = next(part for part in given.split(", ") if part.startswith(COOKIE)).lower()
    assert "httponly" in cookie and "samesite=lax" in cookie
    assert secret[11:].lower() not in cookie


def test_a_wrong_key_is_said_at_the_form(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        response = log_in(client, UNKNOWN_SECRET)

    assert response.status_code == 401
    assert "unknown, revoked or over" in response.text and UNKNOWN_SECRET not in response.text


@pytest.mark.parametrize("wished", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)"])
def test_the_login_leads_to_no_other_site(keyed_api: Api, wished: str) -> None:
    secret = make_key(keyed_api, Scope.TRAIN, name=f"next-{abs(hash(wished))}").secret
    with browser(keyed_api) as client:
        assert log_in(client, secret, next=wished).headers["location"] == "/"


def test_a_visitor_with_the_scope_answer_may_only_ask(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        log_in(client, make_key(keyed_api, Scope.ANSWER, name="asker").secret)
        asked = send(client, "/console/ask", "/console/ask", question=QUESTION, model=BASE)
        sections = set(re.findall(r'href="(/console/[a-z]+)"', client.get("/console/ask").text))
        refused = [client.get(path) for path in ("/console/jobs", "/console/datasets", "/console/answers")]

    assert "取消方式_12" in asked.text
    assert sections == {"/console/ask"}
    assert {response.status_code for response in refused} == {403}
    assert all("Log out asker" in response.text for response in refused)


def test_a_form_of_a_session_needs_its_token_too(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        log_in(client, make_key(keyed_api, Scope.ADMIN, name="forms").secret)
        response = client.post("/console/aliases", data={"alias": "a@b", "to": "a:1"})

    assert (response.status_code, "out of date" in response.text) == (400, True)


def test_a_session_reads_the_api_but_changes_nothing_there(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        log_in(client, make_key(keyed_api, Scope.ADMIN, name="reader").secret)
        read, written = client.get("/v1/files"), client.post("/v1/fine_tuning/jobs/x/cancel")

    assert (read.status_code, written.status_code) == (200, 401)


def test_a_session_ends_with_its_key(keyed_api: Api) -> None:
    created = make_key(keyed_api, Scope.TRAIN, name="ending")
    with browser(keyed_api) as client:
        log_in(client, created.secret)
        assert client.get("/console/jobs").status_code == 200
        with unit_of_work(keyed_api.engine) as session:
            service.revoke(session, created.key.id, OPERATOR)
        deadline = time.monotonic() + 5
        while client.get("/console/jobs").status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_logging_out_ends_the_session(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        log_in(client, make_key(keyed_api, Scope.TRAIN, name="leaving").secret)
        send(client, "/console/jobs/new", "/console/logout")

        assert client.get("/console/jobs").status_code == 303


@pytest.mark.parametrize("change", ["later", "cut", "other", "empty", "letters"])
def test_a_session_that_was_tampered_with_is_none(keyed_api: Api, change: str) -> None:
    created = make_key(keyed_api, Scope.ANSWER, name=f"tampered-{change}")
    wide = make_key(keyed_api, Scope.ADMIN, name=f"wide-{change}")
    with browser(keyed_api) as client:
        log_in(client, created.secret)
        prefix, ends_at, signature = str(client.cookies[COOKIE]).split(".")
    forged = {
        "later": f"{prefix}.{int(ends_at) + 1}.{signature}",
        "cut": f"{prefix}.{ends_at}.{signature[:-1]}",
        "other": f"{wide.key.prefix}.{ends_at}.{signature}",
        "empty": f"{prefix}.{ends_at}.",
        "letters": f"{prefix}.x.{signature}",
    }[change]
    with browser(keyed_api) as client:
        client.cookies.set(COOKIE, forged)

        assert client.get("/console/ask").status_code == 303


def test_the_deployments_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = session_secret(tmp_path)

    assert len(first) == 32 and session_secret(tmp_path) == first
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o077 == 0
