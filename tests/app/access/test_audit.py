from app.access.scopes import Scope
from app.adapters import repository
from app.db.unit_of_work import read_only
from tests.app.access.keyed import bearer, make_key
from tests.fixtures.api import Api
from tests.fixtures.queue import insert_adapter


def test_every_admin_act_is_listed_with_who_when_and_what(keyed_api: Api) -> None:
    admin = bearer(make_key(keyed_api, Scope.ADMIN, name="li.wei").secret)
    adapter = insert_adapter(keyed_api.engine)
    client = keyed_api.client
    acts = [
        client.put(
            "/v1/aliases/telecom@production",
            json={"to": adapter, "force": True, "reason": "test", "by": "somebody"},
            headers=admin,
        ),
        client.delete("/v1/aliases/telecom@production", headers=admin),
        client.put("/v1/codebook", json={"entries": [{"code": "取消方式_1", "text": "回复TD"}]}, headers=admin),
        client.delete(f"/v1/models/{adapter}", headers=admin),
        client.post("/v1/keys", json={"name": "crm-audit", "scope": "answer"}, headers=admin | {"x-request-id": "req-1"}),
    ]
    assert [act.status_code for act in acts] == [200] * 5, [act.text for act in acts]

    page = client.get("/v1/audit?limit=5", headers=admin).json()
    assert [entry["act"] for entry in page["data"]] == [
        "key.created",
        "adapter.deleted",
        "codebook.replaced",
        "alias.deleted",
        "alias.changed",
    ]
    assert {entry["actor"] for entry in page["data"]} == {"li.wei"}
    assert page["data"][0]["request_id"] == "req-1" and page["has_more"] is True
    older = client.get(f"/v1/audit?before={page['data'][-1]['number']}", headers=admin).json()
    assert older["data"][0] | {"created_at": 0} == {
        "object": "audit.entry",
        "number": page["data"][-1]["number"] - 1,
        "created_at": 0,
        "actor": "operator:test",
        "key_id": None,
        "act": "key.created",
        "target": older["data"][0]["target"],
        "details": older["data"][0]["details"],
        "request_id": None,
    }


def test_a_promotion_is_its_keys_whoever_the_client_says(keyed_api: Api) -> None:
    admin = bearer(make_key(keyed_api, Scope.ADMIN, name="wang.fang").secret)
    adapter = insert_adapter(keyed_api.engine)

    keyed_api.client.put("/v1/aliases/by@test", json={"to": adapter, "by": "somebody else"}, headers=admin)

    with read_only(keyed_api.engine) as session:
        assert [move.made_by for move in repository.moves_of(session, "by@test", limit=9)] == ["wang.fang"]


def test_an_act_that_fails_leaves_no_entry(keyed_api: Api) -> None:
    admin = bearer(make_key(keyed_api, Scope.ADMIN, name="failing").secret)
    before = keyed_api.client.get("/v1/audit?limit=1", headers=admin).json()["data"][0]["number"]

    assert keyed_api.client.delete("/v1/models/nothing:1", headers=admin).status_code == 404

    assert keyed_api.client.get("/v1/audit?limit=1", headers=admin).json()["data"][0]["number"] == before
