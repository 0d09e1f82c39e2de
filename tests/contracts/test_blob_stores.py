"""What every `BlobStore` promises."""

import random
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from app import fault_points
from app.blobs.keys import adapter_key, checkpoint_key, export_key
from app.blobs.local import LocalBlobStore
from app.blobs.opening import BlobStoreUnusable, open_blobs
from app.blobs.remote import RemoteBlobStore
from app.blobs.store import BlobStore
from app.durable import seal_folder, verify_folder
from app.fault_points import ArmedFault
from tests.fixtures.object_store import BUCKET, ObjectStore, running_object_store


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, ObjectStore]]:
    """Yields the object stores, by name."""
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(running_object_store(kind, tmp_path_factory.mktemp(kind)))
            for kind in ("nanio", "localbucket")
        }


@pytest.fixture(params=["local", "nanio", "localbucket"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Mapping[str, ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> BlobStore:
    """Returns each store that a deployment may have, empty."""
    if request.param == "local":
        return open_blobs(None, tmp_path / "store")
    server = servers[request.param]
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return open_blobs(f"s3://{BUCKET}/{uuid.uuid4().hex}", tmp_path / "unused")


def a_file(tmp_path: Path, content: bytes = b"bytes", name: str = "source") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def a_folder(tmp_path: Path, content: bytes = b"weights", name: str = "folder") -> Path:
    folder = tmp_path / name
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "adapter.safetensors").write_bytes(content)
    seal_folder(folder)
    return folder


def test_a_file_comes_back_byte_for_byte(store: BlobStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5_000
    store.put_file("files/file-1", a_file(tmp_path, content))

    with store.open("files/file-1") as file:
        assert file.read() == content


def test_a_stored_file_is_gone_from_where_it_was(store: BlobStore, tmp_path: Path) -> None:
    source = a_file(tmp_path)

    store.put_file("files/file-1", source)

    assert not source.exists()


def test_the_first_file_under_a_key_stays(store: BlobStore, tmp_path: Path) -> None:
    store.put_file("files/file-1", a_file(tmp_path, b"first"))
    second = a_file(tmp_path, b"second")

    store.put_file("files/file-1", second)

    with store.open("files/file-1") as file:
        assert file.read() == b"first"
    assert not second.exists()


def test_a_folder_comes_back_whole(store: BlobStore, tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    checksum = verify_folder(folder)

    store.put_folder("adapters/a", folder)

    assert verify_folder(store.fetch("adapters/a", tmp_path)) == checksum
    assert not folder.exists()


def test_the_first_folder_under_a_key_stays(store: BlobStore, tmp_path: Path) -> None:
    store.put_folder("adapters/a", a_folder(tmp_path, b"first"))
    second = a_folder(tmp_path, b"second")

    store.put_folder("adapters/a", second)

    place = store.fetch("adapters/a", tmp_path)
    assert (place / "inner" / "adapter.safetensors").read_bytes() == b"first"
    assert not second.exists()


def test_many_writers_of_one_key_leave_one_whole_folder(store: BlobStore, tmp_path: Path) -> None:
    sources = [a_folder(tmp_path, b"same", name=f"folder-{n}") for n in range(8)]
    failures: list[Exception] = []

    def put(source: Path) -> None:
        try:
            store.put_folder("adapters/a", source)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=put, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    verify_folder(store.fetch("adapters/a", tmp_path))


@pytest.mark.parametrize("put", ["put_file", "put_folder"])
def test_a_source_that_does_not_exist_leaves_no_key(store: BlobStore, tmp_path: Path, put: str) -> None:
    with pytest.raises(OSError):
        getattr(store, put)("files/file-1", tmp_path / "nowhere")

    assert not store.exists("files/file-1")


def test_a_disk_that_fills_up_while_something_is_put_is_not_filled_by_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalBlobStore(tmp_path / "store")
    monkeypatch.setattr(fault_points, "armed", ArmedFault("before_rename", "enospc"))
    with pytest.raises(OSError, match="No space"):
        store.put_file("files/file-1", a_file(tmp_path))
    with pytest.raises(OSError, match="No space"):
        store.put_folder("checkpoints/job/1-1", a_folder(tmp_path))

    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_a_key_that_is_not_there_is_an_error_to_read(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.open("files/file-1")
    with pytest.raises(FileNotFoundError):
        store.fetch("files/file-1", tmp_path)


def test_exists_tells_what_is_there(store: BlobStore, tmp_path: Path) -> None:
    store.put_file("files/file-1", a_file(tmp_path))

    assert (store.exists("files/file-1"), store.exists("files/file-2")) == (True, False)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_deleted_key_is_gone_and_may_be_put_again(store: BlobStore, tmp_path: Path, kind: str) -> None:
    def put() -> None:
        if kind == "file":
            store.put_file("things/a", a_file(tmp_path))
        else:
            store.put_folder("things/a", a_folder(tmp_path))

    put()
    store.delete("things/a")
    assert not store.exists("things/a")

    put()
    assert store.exists("things/a")


def test_deleting_what_is_not_there_does_nothing(store: BlobStore) -> None:
    store.delete("files/file-1")

    assert not store.exists("files/file-1")


def test_a_file_that_is_being_read_can_be_deleted(store: BlobStore, tmp_path: Path) -> None:
    store.put_file("files/file-1", a_file(tmp_path, b"whole"))

    with store.open("files/file-1") as file:
        store.delete("files/file-1")
        assert file.read() == b"whole"


@pytest.mark.parametrize("key", ["../outside", "files/../../outside", "/etc/passwd", "", ".", "files/.."])
@pytest.mark.parametrize("verb", ["open", "exists", "delete"])
def test_a_key_outside_the_store_is_refused(store: BlobStore, tmp_path: Path, key: str, verb: str) -> None:
    (tmp_path / "outside").write_text("secret")

    with pytest.raises(ValueError):
        getattr(store, verb)(key)

    assert (tmp_path / "outside").read_text() == "secret"


@pytest.mark.parametrize("key", ["../outside", "/tmp/dianda-outside", ""])
def test_nothing_is_put_outside_the_store(store: BlobStore, tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError):
        store.put_file(key, a_file(tmp_path))
    with pytest.raises(ValueError):
        store.put_folder(key, a_folder(tmp_path))

    assert not (tmp_path / "outside").exists()


def test_a_file_of_many_parts_comes_back_byte_for_byte(store: BlobStore, tmp_path: Path) -> None:
    # Beyond 100 MiB an upload goes in parts of 50 MiB.
    content = random.Random(1).randbytes(1 << 20) * 101
    store.put_file("files/file-1", a_file(tmp_path, content))

    assert store.fetch("files/file-1", tmp_path).read_bytes() == content


def test_writers_of_one_key_who_differ_leave_one_whole_folder(store: BlobStore, tmp_path: Path) -> None:
    sources = [a_folder(tmp_path, bytes([65 + n]) * 50_000, name=f"folder-{n}") for n in range(6)]
    threads = [threading.Thread(target=store.put_folder, args=("adapters/a", source)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    place = store.fetch("adapters/a", tmp_path)
    verify_folder(place)
    assert len(set((place / "inner" / "adapter.safetensors").read_bytes())) == 1


def test_what_is_fetched_twice_has_two_places(store: BlobStore, tmp_path: Path) -> None:
    store.put_folder("adapters/a", a_folder(tmp_path, b"one"))
    store.put_folder("adapters/b", a_folder(tmp_path, b"two"))

    places = [store.fetch(key, tmp_path) / "inner" / "adapter.safetensors" for key in ("adapters/a", "adapters/b")]

    assert [place.read_bytes() for place in places] == [b"one", b"two"]


def test_an_object_that_another_writer_put_first_stays(
    servers: Mapping[str, ObjectStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers["localbucket"]
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    store = open_blobs(f"s3://{BUCKET}/raced", tmp_path)
    assert isinstance(store, RemoteBlobStore)
    store.put_file("files/file-1", a_file(tmp_path, b"first"))
    # As if the first came between the look and the upload.
    sees_nothing = [False]
    real = store._is_object
    monkeypatch.setattr(store, "_is_object", lambda path: sees_nothing.pop() if sees_nothing else real(path))

    store.put_file("files/file-1", a_file(tmp_path, b"second"))

    assert store.open("files/file-1").read() == b"first"


def test_a_url_that_nothing_reads_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)

    with pytest.raises(BlobStoreUnusable, match=r"dianda\[s3\]"):
        open_blobs("s3://bucket", tmp_path)


def test_the_keys_of_a_lost_worker_and_its_successor_differ() -> None:
    assert checkpoint_key("ftjob-1", 10, 1) != checkpoint_key("ftjob-1", 10, 2)
    assert export_key("exportjob-1", 1) != export_key("exportjob-1", 2)


def test_equal_adapters_share_a_key() -> None:
    assert adapter_key("a" * 64) == adapter_key("a" * 64) != adapter_key("b" * 64)
