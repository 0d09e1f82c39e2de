"""The page of the audit log."""

import re

from app.access.scopes import Scope
from tests.app.access.keyed import browser, log_in, make_key, send
from tests.fixtures.api import Api

PAGE = "/console/audit"


def test_who_did_what_is_listed_the_newest_first_page_by_page(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        admin = make_key(keyed_api, Scope.ADMIN, name="auditor")
        log_in(client, admin.secret)
        for number in range(52):
            assert send(client, "/console/keys", "/console/keys", name=f"made-{number}", scope="answer").status_code == 200
        first = client.get(PAGE).text
        (after,) = re.findall(r'href="/console/audit\?after=(\d+)"', first)
        second = client.get(f"{PAGE}?after={after}").text

    names = re.findall(r"<code>name</code> (made-\d+)<", first + second)
    assert names == [f"made-{number}" for number in reversed(range(52))]
    assert "Key made" in first and "auditor" in first and admin.key.id in first
    assert admin.secret not in first


def test_only_an_admin_sees_it(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        log_in(client, make_key(keyed_api, Scope.TRAIN, name="trainer").secret)
        assert client.get(PAGE).status_code == 403
