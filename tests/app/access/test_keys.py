import socket
import time

import pytest
from openai import AuthenticationError, OpenAI, PermissionDeniedError
from sqlalchemy import select

from app.access import service
from app.access.models import ApiKey
from app.access.scopes import Scope
from app.access.secret_text import digest_of, is_secret_of, new_secret, prefix_of
from app.db.unit_of_work import read_only, unit_of_work
from tests.app.access.keyed import OPERATOR, bearer, error_of, make_key
from tests.fixtures.api import BASE, QUESTION, Api, serving


def ask(api: Api, secret: str) -> int:
    response = api.client.post("/answer", json={"question": QUESTION, "model": BASE}, headers=bearer(secret))
    return int(response.status_code)


def wait_until_refused(api: Api, secret: str) -> float:
    started = time.monotonic()
    while ask(api, secret) == 200:
        assert time.monotonic() - started < 5
        time.sleep(0.02)
    return time.monotonic() - started


def test_a_key_that_was_made_a_moment_ago_works(keyed_api: Api) -> None:
    assert ask(keyed_api, make_key(keyed_api, Scope.ANSWER, name="new").secret) == 200


def test_a_key_may_come_as_the_header_that_azures_dialect_has(keyed_api: Api) -> None:
    secret = make_key(keyed_api, Scope.ANSWER, name="azure").secret

    assert keyed_api.client.get("/v1/models", headers={"api-key": secret}).status_code == 200


def test_a_revoked_key_is_refused_within_a_second_though_nobody_tells_the_process(keyed_api: Api) -> None:
    created = make_key(keyed_api, Scope.ANSWER, name="leaked")
    assert ask(keyed_api, created.secret) == 200

    with unit_of_work(keyed_api.engine) as session:
        service.revoke(session, created.key.id, OPERATOR)

    assert wait_until_refused(keyed_api, created.secret) < 2  # half a second, and a busy machine


def test_a_key_over_its_time_is_refused(keyed_api: Api) -> None:
    created = make_key(keyed_api, Scope.ANSWER, name="short", days=0.5 / 86_400)

    assert wait_until_refused(keyed_api, created.secret) < 2


def test_a_known_prefix_with_another_rest_is_refused(keyed_api: Api) -> None:
    secret = make_key(keyed_api, Scope.ADMIN, name="half-known").secret

    response = keyed_api.client.get("/v1/keys", headers=bearer(secret[:-4] + "AAAA"))

    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")


def test_a_refusal_has_the_shape_of_every_error_and_says_what_to_do(keyed_api: Api) -> None:
    response = keyed_api.client.get("/v1/files")

    error = error_of(response)
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "missing_api_key", None)
    assert "dianda key create" in error["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("given", ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer dk_short", "Bearer dk_" + "é" * 43, "none"])
def test_a_header_that_carries_no_key_is_refused(keyed_api: Api, given: str) -> None:
    response = keyed_api.client.get("/v1/files", headers={"authorization": given.encode("latin-1")})

    assert response.status_code == 401


def test_a_large_body_is_refused_for_its_missing_key_before_it_is_read(keyed_api: Api) -> None:
    with serving(keyed_api.app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            # Announced and never sent: whoever waits for it waits for ever.
            connection.sendall(b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 400000000\r\n\r\n")
            answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 401")


def test_the_database_holds_no_secret(keyed_api: Api) -> None:
    created = make_key(keyed_api, Scope.ANSWER, name="stored")

    with read_only(keyed_api.engine) as session:
        row = session.scalars(select(ApiKey).where(ApiKey.id == created.key.id)).one()
    stored = [str(value) for value in vars(row).values()]
    assert is_secret_of(created.secret, row.digest)
    assert not any(created.secret[len(row.prefix) :] in value for value in stored)
    assert created.secret.startswith(row.prefix) and len(row.prefix) < 12


def test_a_secret_has_256_random_bits_and_a_form_that_is_known_again() -> None:
    made = {new_secret() for _ in range(100)}

    assert len({prefix_of(secret) for secret in made}) == 100
    assert {len(secret) for secret in made} == {3 + 43}
    assert len({digest_of(secret) for secret in made}) == 100


def test_two_keys_in_force_never_share_a_name(keyed_api: Api) -> None:
    admin = bearer(make_key(keyed_api, Scope.ADMIN, name="names").secret)
    first = keyed_api.client.post("/v1/keys", json={"name": "crm", "scope": "answer"}, headers=admin)

    second = keyed_api.client.post("/v1/keys", json={"name": "crm", "scope": "answer"}, headers=admin)
    keyed_api.client.delete(f"/v1/keys/{first.json()['id']}", headers=admin)
    third = keyed_api.client.post("/v1/keys", json={"name": "crm", "scope": "answer"}, headers=admin)

    assert [first.status_code, second.status_code, third.status_code] == [200, 409, 200]
    assert error_of(second)["code"] == "key_name_taken"


def test_an_admin_makes_lists_and_revokes_keys_over_http(keyed_api: Api) -> None:
    admin = bearer(make_key(keyed_api, Scope.ADMIN, name="over-http").secret)

    made = keyed_api.client.post("/v1/keys", json={"name": "app-1", "scope": "answer", "days": 30}, headers=admin)
    listed = keyed_api.client.get("/v1/keys", headers=admin)
    revoked = keyed_api.client.delete(f"/v1/keys/{made.json()['id']}", headers=admin)

    secret = made.json()["secret"]
    assert made.headers["cache-control"] == "no-store"
    assert secret not in listed.text and made.json()["prefix"] in listed.text
    assert revoked.json()["revoked_at"] is not None
    wait_until_refused(keyed_api, secret)


def test_the_official_client_works_with_a_key_and_says_what_is_wrong_with_another(keyed_api: Api) -> None:
    secret = make_key(keyed_api, Scope.ANSWER, name="openai").secret
    with serving(keyed_api.app) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
        reply = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": QUESTION}])
        with pytest.raises(PermissionDeniedError, match="scope train"):
            client.files.list()
        with pytest.raises(AuthenticationError, match="unknown, revoked or over"):
            OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0).models.list()

    assert reply.choices[0].message.content == "取消方式_12|9.9"
