import re

import pytest
from fastapi.testclient import TestClient

from app.access.scopes import Scope
from tests.app.access.keyed import bearer, browser, log_in, make_key, send
from tests.fixtures.api import Api

PAGE = "/console/keys"
_SECRET = re.compile(r"dk_[\w-]{43}")


def logged_in(api: Api, client: TestClient, name: str, scope: Scope = Scope.ADMIN) -> str:
    """Logs in with a new key and returns the key's id."""
    created = make_key(api, scope, name=name)
    assert log_in(client, created.secret).status_code == 303
    return created.key.id


def test_a_new_keys_secret_is_shown_once_and_lets_its_holder_in(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        logged_in(keyed_api, client, "maker")
        reply = send(client, PAGE, PAGE, name="crm-app", scope="answer", requests_per_minute="60", days="30")
        (secret,) = set(_SECRET.findall(reply.text))
        lists = client.get(PAGE).text + client.get(f"{PAGE}?ended=true").text

    assert reply.headers["cache-control"] == "no-store"
    assert "Copy it now" in reply.text
    assert keyed_api.client.get("/v1/models", headers=bearer(secret)).status_code == 200
    assert keyed_api.client.get("/v1/files", headers=bearer(secret)).status_code == 403
    assert "crm-app" in lists and "60 a minute" in lists
    assert _SECRET.findall(lists) == []


def test_the_form_sent_twice_makes_one_key(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        logged_in(keyed_api, client, "twice-maker")
        first, second = (send(client, PAGE, PAGE, name="twice", scope="train") for _ in range(2))

    assert (first.status_code, second.status_code) == (200, 409)
    assert re.search(r'name="name"[^>]*value="twice"[^>]*aria-invalid="true"', second.text)
    assert _SECRET.findall(second.text) == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": "no spaces please"}, "name"),
        ({"name": "n", "scope": "root"}, "scope"),
        ({"name": "n", "days": "soon"}, "days"),
        ({"name": "n", "days": "nan"}, "days"),
        ({"name": "n", "max_concurrent": "0"}, "max_concurrent"),
        ({}, "name"),
    ],
)
def test_a_wrong_wish_is_refused_at_the_form(keyed_api: Api, fields: dict[str, str], named: str) -> None:
    with browser(keyed_api) as client:
        log_in(client, make_key(keyed_api, Scope.ADMIN, name=f"wrong-{abs(hash(str(fields)))}").secret)
        response = send(client, PAGE, PAGE, **{"scope": "answer", **fields})

    assert response.status_code == 400
    assert 'role="alert"' in response.text and named in response.text


def test_a_revoked_key_leaves_the_list_and_stands_among_all(keyed_api: Api) -> None:
    gone = make_key(keyed_api, Scope.TRAIN, name="to-revoke")
    with browser(keyed_api) as client:
        logged_in(keyed_api, client, "revoker")
        response = send(client, PAGE, f"{PAGE}/{gone.key.id}/revoke")
        in_force, every = client.get(PAGE).text, client.get(f"{PAGE}?ended=true").text
        acts = client.get("/v1/audit").json()["data"]

    assert response.headers["location"] == f"{PAGE}?done=revoked"
    assert "to-revoke" not in in_force
    assert re.search(r'to-revoke <span class="status failed">revoked', every, re.S)
    assert (acts[0]["act"], acts[0]["target"], acts[0]["actor"]) == ("key.revoked", gone.key.id, "revoker")


def test_the_list_marks_the_visitors_own_key_and_warns_before_its_end(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        key_id = logged_in(keyed_api, client, "myself")
        html = client.get(PAGE).text

    assert re.search(r'myself <span class="status running">yours', html)
    assert re.search(rf"{key_id}/revoke\".*?you will be logged out", html, re.S)


def test_a_key_is_neither_made_nor_revoked_without_the_forms_token(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        key_id = logged_in(keyed_api, client, "tokenless")
        made = client.post(PAGE, data={"name": "forged", "scope": "admin"})
        revoked = client.post(f"{PAGE}/{key_id}/revoke")
        html = client.get(PAGE).text

    assert (made.status_code, revoked.status_code) == (400, 400)
    assert "forged" not in html and "tokenless" in html


def test_only_an_admin_sees_the_keys_and_the_form_that_replaces_the_book(keyed_api: Api) -> None:
    with browser(keyed_api) as client:
        logged_in(keyed_api, client, "trainer", Scope.TRAIN)
        refused, book = client.get(PAGE), client.get("/console/codebook").text
    with browser(keyed_api) as client:
        logged_in(keyed_api, client, "admin-looks")
        admins_book = client.get("/console/codebook").text

    assert refused.status_code == 403
    assert f'href="{PAGE}"' not in book and "needs a key of the scope admin" in book and 'type="file"' not in book
    assert f'href="{PAGE}"' in admins_book and 'type="file"' in admins_book
