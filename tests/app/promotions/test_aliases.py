from typing import Any

import httpx2
import pytest

from app.adapters.models import Alias, AliasMove
from tests.fixtures.api import BASE, Api
from tests.fixtures.queue import insert_adapter, row_count


def change(api: Api, *, alias: str = "telecom@production", **fields: Any) -> httpx2.Response:
    return api.client.put(f"/v1/aliases/{alias}", json=fields)


def point(api: Api, to: str, *, alias: str = "telecom@production", **fields: Any) -> httpx2.Response:
    return change(api, alias=alias, to=to, **fields)


def history(api: Api, **params: Any) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = api.client.get("/v1/aliases/telecom@production/history", params=params).json()["data"]
    return data


class TestAliases:
    def test_an_alias_points_where_it_was_told(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine)

        assert point(api, adapter_id).json()["model"] == adapter_id
        assert api.client.get("/v1/aliases/telecom@production").json()["model"] == adapter_id

    def test_previous_goes_back_to_where_it_pointed_before(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)
        point(api, second)

        assert point(api, "previous").json()["model"] == first

    def test_previous_twice_comes_back(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)
        point(api, second)
        point(api, "previous")

        assert point(api, "previous").json()["model"] == second

    def test_previous_of_an_alias_that_moved_only_once_is_404(self, api: Api) -> None:
        point(api, insert_adapter(api.engine))

        response = point(api, "previous")

        assert (response.status_code, response.json()["error"]["param"]) == (404, "to")

    def test_previous_of_a_new_alias_is_404(self, api: Api) -> None:
        assert point(api, "previous").status_code == 404

    def test_the_history_keeps_every_move_newest_first(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)
        point(api, second, reason="F1 0.97")
        point(api, "previous", reason="complaints")

        data = api.client.get("/v1/aliases/telecom@production/history").json()["data"]

        assert [(move["number"], move["from_model"], move["to_model"], move["reason"]) for move in data] == [
            (3, second, first, "complaints"),
            (2, first, second, "F1 0.97"),
            (1, None, first, None),
        ]

    @pytest.mark.parametrize("to", ["telecom:9", BASE, "other@production"])
    def test_an_alias_points_only_to_an_adapter_that_is_there(self, api: Api, to: str) -> None:
        response = point(api, to)

        assert (response.status_code, response.json()["error"]["param"]) == (404, "to")
        assert (row_count(api.engine, Alias), row_count(api.engine, AliasMove)) == (0, 0)

    @pytest.mark.parametrize("alias", ["production", "telecom:1", "@production", "telecom@", "a b@c", "a@b@c", "电信@生产"])
    def test_an_alias_of_another_form_is_refused(self, api: Api, alias: str) -> None:
        response = point(api, insert_adapter(api.engine), alias=alias)

        assert (response.status_code, response.json()["error"]["param"]) == (400, "name")

    @pytest.mark.parametrize("path", ["", "/history"])
    def test_an_unknown_alias_is_404(self, api: Api, path: str) -> None:
        assert api.client.get(f"/v1/aliases/telecom@production{path}").status_code == 404

    def test_an_alias_that_moved_away_frees_its_adapter(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)
        point(api, second)

        assert api.client.delete(f"/v1/models/{first}").status_code == 200

    def test_previous_of_a_deleted_adapter_is_404_and_moves_nothing(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)
        point(api, second)
        api.client.delete(f"/v1/models/{first}")

        assert point(api, "previous").status_code == 404
        assert api.client.get("/v1/aliases/telecom@production").json()["model"] == second

    def test_previous_after_pointing_there_again_is_still_the_one_before(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)
        point(api, second)
        point(api, second)

        assert point(api, "previous").json()["model"] == first

    def test_the_history_says_who_and_anonymous_where_nobody_said(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)
        point(api, second, by="li.wei")

        assert [move["by"] for move in history(api)] == ["li.wei", "anonymous"]

    def test_the_history_is_read_page_by_page(self, api: Api) -> None:
        for _ in range(3):
            point(api, insert_adapter(api.engine))

        first = history(api, limit=2)

        assert [move["number"] for move in first + history(api, limit=2, before=first[-1]["number"])] == [3, 2, 1]

    def test_the_reply_tells_what_the_promotion_did(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)

        assert point(api, second).json()["promotion"] == {
            "from_model": first,
            "to_model": second,
            "gate": None,
            "forced": False,
            "loaded": True,
        }

    def test_a_body_that_asks_for_nothing_is_refused(self, api: Api) -> None:
        response = change(api, reason="none")

        assert (response.status_code, response.json()["error"]["param"]) == (400, "to")

    @pytest.mark.parametrize("fields", [{"expected": "telecom:9"}, {"expected": "none"}])
    def test_a_promotion_of_somebody_who_was_slower_is_409_and_tells_where_the_alias_is(
        self, api: Api, fields: dict[str, str]
    ) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        point(api, first)

        response = point(api, second, **fields)

        error = response.json()["error"]
        assert (response.status_code, error["code"], error["details"]) == (409, "alias_moved", {"current": first})
        assert response.headers["x-should-retry"] == "false"

    def test_a_promotion_that_expects_rightly_goes_through(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)

        assert point(api, first, expected="none").json()["model"] == first
        assert point(api, second, expected=first).json()["model"] == second


class TestListingAndDeleting:
    def test_aliases_are_listed_by_name_page_by_page(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine)
        for alias in ("telecom@test", "care@production", "telecom@production"):
            point(api, adapter_id, alias=alias)

        first = api.client.get("/v1/aliases", params={"limit": 2}).json()
        second = api.client.get("/v1/aliases", params={"after": first["data"][-1]["name"]}).json()

        names = [alias["name"] for alias in first["data"] + second["data"]]
        assert names == ["care@production", "telecom@production", "telecom@test"]
        assert (first["has_more"], second["has_more"]) == (True, False)

    def test_a_deleted_alias_is_gone_and_its_history_stays(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine)
        point(api, adapter_id)

        response = api.client.delete("/v1/aliases/telecom@production", params={"reason": "renamed", "by": "me"})

        assert response.json() == {"id": "telecom@production", "object": "alias", "deleted": True}
        assert api.client.get("/v1/aliases/telecom@production").status_code == 404
        last = history(api)[0]
        assert (last["action"], last["from_model"], last["to_model"]) == ("deleted", adapter_id, None)
        assert (last["reason"], last["by"]) == ("renamed", "me")

    def test_a_deleted_alias_frees_its_adapter_and_answers_nobody(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine)
        point(api, adapter_id)
        api.client.post("/answer", json={"question": "问", "model": "telecom@production"})
        api.client.delete("/v1/aliases/telecom@production")

        assert api.client.post("/answer", json={"question": "问", "model": "telecom@production"}).status_code == 404
        assert api.client.delete(f"/v1/models/{adapter_id}").status_code == 200

    def test_previous_of_a_deleted_alias_is_404(self, api: Api) -> None:
        point(api, insert_adapter(api.engine))
        point(api, insert_adapter(api.engine))
        api.client.delete("/v1/aliases/telecom@production")

        assert point(api, "previous").status_code == 404

    def test_an_unknown_alias_cannot_be_deleted(self, api: Api) -> None:
        assert api.client.delete("/v1/aliases/telecom@production").status_code == 404
