"""Run as a process: uses an API with and without right keys, breaks it, and prints what its log must not have."""

import json
import sys
from pathlib import Path

from app.access.scopes import Scope
from app.access.sessions import COOKIE
from app.db.engine import make_engine
from app.db.migrating import upgrade
from tests.app.access.keyed import UNKNOWN_SECRET, bearer, browser, make_key
from tests.app.access.test_console_login import log_in
from tests.fixtures.api import BASE, running_api

QUESTION = "我的号码是13800000000怎么退订"


def main(folder: Path) -> None:
    """Writes the API's log to stderr and the secrets to stdout."""
    url = f"sqlite:///{folder / 'logged.db'}"
    upgrade(make_engine(url))
    with running_api(folder / "data", url, auth="on", answer_log_questions="text") as api, browser(api) as client:
        secret = make_key(api, Scope.ADMIN, name="quiet").secret
        ask = {"question": QUESTION, "model": BASE}
        client.post("/answer", json=ask, headers=bearer(secret))
        client.post("/answer", json=ask, headers=bearer(UNKNOWN_SECRET))
        client.get(f"/v1/files?api_key={secret}")
        made = client.post("/v1/keys", json={"name": "quiet-2", "scope": "answer"}, headers=bearer(secret)).json()["secret"]
        log_in(client, UNKNOWN_SECRET)
        log_in(client, secret)
        cookie = client.cookies[COOKIE]
        api.backend._answers = None  # type: ignore[assignment]
        assert client.post("/answer", json=ask, headers=bearer(secret)).status_code == 500
        with api.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO gone")
        assert client.post("/v1/keys", json={"name": QUESTION[:4], "scope": "answer"}, headers=bearer(secret)).status_code == 503
    print(json.dumps([secret, made, UNKNOWN_SECRET, cookie, QUESTION, "13800000000"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
