from typing import Any

import httpx2
import pytest

from app.adapters import service
from app.db.unit_of_work import unit_of_work
from app.jobs.states import JobStatus
from tests.fixtures.api import BASE, WEIGHTLESS, Api
from tests.fixtures.queue import insert_adapter, insert_job


def point(api: Api, to: str, *, alias: str = "telecom@production", **fields: Any) -> httpx2.Response:
    return api.client.put(f"/v1/aliases/{alias}", json={"to": to, **fields})


def keep_weights(api: Api, adapter_id: str) -> str:
    """Puts a folder where the adapter's weights lie; returns its name."""
    checksum = str(api.client.get(f"/v1/models/{adapter_id}").json()["checksum"])
    folder = api.settings.blobs_dir / "adapters" / checksum
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1")
    return checksum


class TestModels:
    def test_the_list_has_aliases_base_models_and_adapters_newest_first(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine, name="care")
        point(api, first)

        data = api.client.get("/v1/models").json()["data"]

        assert [(model["id"], model["kind"]) for model in data] == [
            ("telecom@production", "alias"),
            (WEIGHTLESS, "base"),
            (BASE, "base"),
            (second, "adapter"),
            (first, "adapter"),
        ]

    def test_a_base_model_without_weights_is_listed_as_not_available(self, api: Api) -> None:
        data = api.client.get("/v1/models").json()["data"]

        assert {model["id"]: model["available"] for model in data} == {BASE: True, WEIGHTLESS: False}

    def test_only_adapters_are_on_the_pages_that_follow(self, api: Api) -> None:
        oldest, middle, newest = (insert_adapter(api.engine) for _ in range(3))

        first = api.client.get("/v1/models", params={"limit": 2}).json()
        second = api.client.get("/v1/models", params={"limit": 2, "after": middle}).json()

        assert [model["id"] for model in first["data"] if model["kind"] == "adapter"] == [newest, middle]
        assert first["has_more"] and not second["has_more"]
        assert [model["id"] for model in second["data"]] == [oldest]

    def test_an_adapter_is_found_by_its_name_with_a_colon(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine, checksum="a" * 64)

        model = api.client.get(f"/v1/models/{adapter_id}").json()

        assert adapter_id == "telecom:1"
        assert (model["id"], model["object"], model["parent"], model["checksum"]) == ("telecom:1", "model", BASE, "a" * 64)

    @pytest.mark.parametrize("path", ["telecom@production", "telecom%40production"])
    def test_an_alias_is_found_as_what_it_stands_for(self, api: Api, path: str) -> None:
        point(api, insert_adapter(api.engine))

        assert api.client.get(f"/v1/models/{path}").json()["id"] == "telecom:1"

    def test_a_base_model_is_found(self, api: Api) -> None:
        assert api.client.get(f"/v1/models/{BASE}").json()["kind"] == "base"

    @pytest.mark.parametrize("name", ["telecom:9", "nobody@production", "nothing", "a/b", "..", "telecom:1%20"])
    def test_an_unknown_model_is_404(self, api: Api, name: str) -> None:
        insert_adapter(api.engine)

        response = api.client.get(f"/v1/models/{name}")

        assert response.status_code == 404
        assert response.json()["error"]["type"] == "not_found_error"


class TestDeleting:
    def test_a_deleted_adapter_is_gone_with_its_weights(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine)
        checksum = keep_weights(api, adapter_id)

        response = api.client.delete(f"/v1/models/{adapter_id}")

        assert response.json() == {"id": adapter_id, "object": "model", "deleted": True}
        assert api.client.get(f"/v1/models/{adapter_id}").status_code == 404
        assert not (api.settings.blobs_dir / "adapters" / checksum).exists()

    def test_weights_that_an_equal_adapter_needs_stay(self, api: Api) -> None:
        first = insert_adapter(api.engine, checksum="e" * 64)
        insert_adapter(api.engine, checksum="e" * 64)
        checksum = keep_weights(api, first)

        api.client.delete(f"/v1/models/{first}")

        assert (api.settings.blobs_dir / "adapters" / checksum / "weights").exists()

    def test_an_adapter_that_an_alias_points_to_is_409_naming_the_alias(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine)
        checksum = keep_weights(api, adapter_id)
        point(api, adapter_id)

        response = api.client.delete(f"/v1/models/{adapter_id}")

        assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
        assert "telecom@production" in response.json()["error"]["message"]
        assert (api.settings.blobs_dir / "adapters" / checksum).exists()

    def test_an_adapter_that_an_unfinished_evaluation_needs_is_409_naming_the_job(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine)
        job_id = insert_job(api.engine, kind="evaluation", adapter_id=adapter_id, status=JobStatus.RUNNING)

        response = api.client.delete(f"/v1/models/{adapter_id}")

        assert response.status_code == 409
        assert job_id in response.json()["error"]["message"]

    def test_a_base_model_cannot_be_deleted(self, api: Api) -> None:
        assert api.client.delete(f"/v1/models/{BASE}").status_code == 409

    def test_an_unknown_adapter_is_404(self, api: Api) -> None:
        assert api.client.delete("/v1/models/telecom:9").status_code == 404


class TestVersions:
    def test_versions_count_for_each_name(self, api: Api) -> None:
        made = [insert_adapter(api.engine, name=name) for name in ("telecom", "care", "telecom")]

        assert made == ["telecom:1", "care:1", "telecom:2"]

    def test_a_deleted_adapters_number_is_never_given_again(self, api: Api) -> None:
        insert_adapter(api.engine)
        newest = insert_adapter(api.engine)
        api.client.delete(f"/v1/models/{newest}")

        assert insert_adapter(api.engine) == "telecom:3"

    def test_a_rolled_back_adapter_uses_no_number_up(self, api: Api) -> None:
        with pytest.raises(RuntimeError), unit_of_work(api.engine) as session:
            service.create(session, name="telecom", base_model=BASE, job_id="j", checksum="c", blob_key="k", spec={}, metrics={})
            raise RuntimeError

        assert insert_adapter(api.engine) == "telecom:1"
