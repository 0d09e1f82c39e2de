import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from app.db.unit_of_work import unit_of_work
from app.exports import service
from app.exports.models import Export
from app.jobs import leases
from app.jobs.models import Job
from tests.app.exports.finished import finish
from tests.fixtures.api import BASE, Api
from tests.fixtures.queue import insert_adapter, must_claim, read_job, row_count


def post(api: Api, **fields: Any) -> Any:
    return api.client.post("/v1/exports", json={"model": insert_adapter(api.engine), "format": "peft", **fields})


def test_an_export_is_queued_and_readable_at_once(api: Api) -> None:
    created = post(api).json()

    assert (created["object"], created["status"], created["bytes"]) == ("export", "queued", None)
    assert api.client.get(f"/v1/exports/{created['id']}").json() == created
    assert api.bell.rung == [created["job"]]


def test_an_export_keeps_what_its_alias_stood_for(api: Api) -> None:
    first, second = insert_adapter(api.engine, checksum="a" * 64), insert_adapter(api.engine)
    api.client.put("/v1/aliases/telecom@production", json={"to": first})
    created = post(api, model="telecom@production").json()
    api.client.put("/v1/aliases/telecom@production", json={"to": second})

    body = api.client.get(f"/v1/exports/{created['id']}").json()

    assert (body["model"], body["adapter"], body["base_model"]) == ("telecom@production", first, BASE)
    assert read_job(api.engine, created["job"]).spec["adapter_checksum"] == "a" * 64


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"model": BASE}, 400, "model"),
        ({"format": "onnx"}, 422, "format"),
        ({"converter": "/bin/sh"}, 422, "converter"),
    ],
)
def test_a_wrong_request_is_refused_and_queues_nothing(api: Api, fields: dict[str, Any], status: int, param: str) -> None:
    response = post(api, **fields)

    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert (row_count(api.engine, Job), row_count(api.engine, Export)) == (0, 0)


def test_exports_are_listed_newest_first_page_by_page(api: Api) -> None:
    made = [post(api).json()["id"] for _ in range(3)]

    first = api.client.get("/v1/exports", params={"limit": 2}).json()
    second = api.client.get("/v1/exports", params={"limit": 2, "after": first["last_id"]}).json()

    assert [item["id"] for item in first["data"] + second["data"]] == made[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_an_export_is_no_fine_tuning_job(api: Api) -> None:
    created = post(api).json()

    assert api.client.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert api.client.get(f"/v1/fine_tuning/jobs/{created['job']}").status_code == 404


def test_a_queued_export_is_cancelled_at_once_and_only_once(api: Api) -> None:
    path = f"/v1/exports/{post(api).json()['id']}/cancel"

    assert api.client.post(path).json()["status"] == "cancelled"
    assert api.client.post(path).status_code == 409


def test_an_export_without_content_yet_says_so(api: Api) -> None:
    response = api.client.get(f"/v1/exports/{post(api).json()['id']}/content")

    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")


def test_a_finished_export_streams_a_tar_of_its_files(api: Api) -> None:
    export_id = post(api, format="merged").json()["id"]
    finish(api, files={"config.json": b"{}", "model.safetensors": b"weights"})

    body = api.client.get(f"/v1/exports/{export_id}").json()
    response = api.client.get(f"/v1/exports/{export_id}/content")

    assert (body["status"], body["bytes"], len(body["checksum"])) == ("succeeded", 9, 64)
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["content-disposition"] == 'attachment; filename="telecom-1-merged.tar"'
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        assert archive.getnames() == ["config.json", "manifest.json", "model.safetensors"]


def test_a_finished_gguf_export_streams_the_file_itself(api: Api) -> None:
    export_id = post(api, format="gguf").json()["id"]
    finish(api, files={"model.gguf": b"GGUF"})

    response = api.client.get(f"/v1/exports/{export_id}/content")

    assert response.content == b"GGUF"
    assert response.headers["content-disposition"] == 'attachment; filename="telecom-1.gguf"'


def test_the_content_leaves_nothing_behind_in_the_upload_folder(api: Api) -> None:
    export_id = post(api).json()["id"]
    finish(api, files={"a": b"1"})

    first = api.client.get(f"/v1/exports/{export_id}/content").content
    second = api.client.get(f"/v1/exports/{export_id}/content").content

    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    assert list((api.settings.data_dir / "uploads").iterdir()) == []


def test_a_deleted_export_frees_its_files(api: Api) -> None:
    export_id = post(api).json()["id"]
    key = finish(api, files={"a": b"1"})

    assert api.client.delete(f"/v1/exports/{export_id}").json() == {"id": export_id, "object": "export", "deleted": True}

    assert not (api.settings.blobs_dir / key).exists()
    assert api.client.get(f"/v1/exports/{export_id}").status_code == 404
    assert row_count(api.engine, Job) == 0


def test_an_unfinished_export_is_not_deleted(api: Api) -> None:
    path = f"/v1/exports/{post(api).json()['id']}"

    assert api.client.delete(path).status_code == 409
    api.client.post(f"{path}/cancel")
    assert api.client.delete(path).status_code == 200


def test_the_adapter_of_an_unfinished_export_is_not_deleted(api: Api) -> None:
    body = post(api).json()

    response = api.client.delete(f"/v1/models/{body['adapter']}")

    assert response.status_code == 409
    assert f"export job '{body['job']}'" in response.json()["error"]["message"]


def test_a_fenced_worker_publishes_no_export(api: Api) -> None:
    export_id = post(api).json()["id"]
    stale = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        leases.interrupt(session, stale, reason="lost.")

    with unit_of_work(api.engine) as session:
        assert not service.finish(session, stale, blob_key="k", checksum="0" * 64, size_bytes=1)

    assert api.client.get(f"/v1/exports/{export_id}").json()["bytes"] is None


def test_files_that_vanished_from_the_store_are_an_error_and_no_torn_stream(api: Api) -> None:
    export_id = post(api).json()["id"]
    key = finish(api, files={"a": b"1"})
    folder = Path(api.settings.blobs_dir / key)
    folder.rename(folder.with_name("elsewhere"))

    assert api.client.get(f"/v1/exports/{export_id}/content").status_code == 500


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/content")])
def test_an_unknown_export_is_404(api: Api, method: str, path: str) -> None:
    assert api.client.request(method, f"/v1/exports/export-none{path}").status_code == 404
