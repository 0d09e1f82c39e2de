"""The main job with its blobs on an S3-compatible server: api, worker and answerer meet there and nowhere else."""

from collections.abc import Iterator

import pytest

from tests.fixtures.object_store import BUCKET, ObjectStore, running_object_store
from tests.integration.conftest import Product, start_product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store("nanio", tmp_path_factory.mktemp("nanio")) as running:
        yield running


@pytest.fixture(scope="module")
def remote(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield from start_product(tmp_path_factory.mktemp("remote"), blobs_url=f"s3://{BUCKET}/dianda")


def test_a_job_runs_and_its_adapter_answers_from_object_storage(remote: Product, server: ObjectStore) -> None:
    file_id = remote.upload()
    job_id = remote.start_job(file_id, "remote", n_epochs=4, save_steps=2)
    done = remote.wait_status(job_id, "succeeded", "failed")
    assert done["status"] == "succeeded", done
    answer = remote.client.post("/answer", {"question": "问题1号怎么办", "model": done["fine_tuned_model"]})

    assert answer["codes"]
    assert b"step,epoch,loss" in remote.client.get_bytes(f"/v1/files/{done['result_files'][0]}/content")
    assert len(list((server.bucket_folder / "dianda" / "adapters").iterdir())) == 1
    assert list((server.bucket_folder / "dianda" / "checkpoints").rglob("*.tar"))
    blobs = remote.folder / "data" / "blobs"
    assert not [path for path in blobs.rglob("*") if path.is_file()]


def test_a_killed_training_goes_on_from_a_checkpoint_of_object_storage(remote: Product) -> None:
    job_id = remote.start_job(remote.upload(), "resumed", n_epochs=150, save_steps=20)
    remote.wait(job_id, lambda job: remote.client.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints")["data"] != [])
    remote.kill_child(job_id)

    assert remote.wait_status(job_id, "succeeded", "failed", timeout_s=120)["status"] == "succeeded"
    events = remote.client.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=100")["data"]
    starts = [event["data"]["resumed_from_step"] for event in events if event["message"] == "Started."]
    assert starts[-1] == 0 and starts[0] >= 20


def test_a_dataset_that_is_deleted_leaves_no_object(remote: Product, server: ObjectStore) -> None:
    file_id = remote.upload(12)
    folder = server.bucket_folder / "dianda" / "files"
    assert [path.name for path in folder.iterdir() if file_id in path.name]

    remote.client.delete(f"/v1/files/{file_id}")

    assert [path.name for path in folder.iterdir() if file_id in path.name] == []
