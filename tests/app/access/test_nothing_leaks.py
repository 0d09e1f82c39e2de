"""Secrets and the texts of questions are in no log line and in no trace of a fault."""

import traceback
from collections.abc import MutableMapping
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from structlog.testing import capture_logs

from app.access.scopes import Scope
from app.access.sessions import COOKIE
from tests.app.access.keyed import UNKNOWN_SECRET, bearer, browser, make_key
from tests.app.access.test_console_login import log_in
from tests.fixtures.api import BASE, Api

QUESTION = "我的号码是13800000000怎么退订"


def written(logs: list[MutableMapping[str, Any]]) -> str:
    parts = []
    for log in logs:
        parts.append(str(log))
        if isinstance(error := log.get("exc_info"), BaseException):
            parts += traceback.format_exception(error)
    return "\n".join(parts)


def test_neither_keys_nor_questions_are_logged_whatever_happens(keyed_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = make_key(keyed_api, Scope.ADMIN, name="quiet").secret
    ask = {"question": QUESTION, "model": BASE}
    with capture_logs() as logs, browser(keyed_api) as client:
        client.post("/answer", json=ask, headers=bearer(secret))
        client.post("/answer", json=ask, headers=bearer(UNKNOWN_SECRET))
        client.get(f"/v1/files?api_key={secret}")
        new = client.post("/v1/keys", json={"name": "quiet-2", "scope": "answer"}, headers=bearer(secret)).json()["secret"]
        log_in(client, UNKNOWN_SECRET)
        log_in(client, secret)
        cookie = client.cookies[COOKIE]
        monkeypatch.setattr(keyed_api.backend, "_answers", None)
        assert client.post("/answer", json=ask, headers=bearer(secret)).status_code == 500
        assert client.get("/v1/keys").status_code == 200

    text_of_logs = written(logs)
    assert "unhandled_error" in text_of_logs and "admin_act" in text_of_logs
    assert [kept for kept in (secret, new, UNKNOWN_SECRET, cookie, QUESTION, "13800000000") if kept in text_of_logs] == []


def test_an_error_of_the_database_does_not_quote_what_was_written(keyed_api: Api) -> None:
    with pytest.raises(SQLAlchemyError) as caught, keyed_api.engine.begin() as connection:
        connection.execute(text("INSERT INTO nothing VALUES (:question)"), {"question": QUESTION})

    assert QUESTION not in str(caught.value)
