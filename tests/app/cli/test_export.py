"""`dianda export` against the API under a real server; the worker's part is played by the test."""

import io
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from app.cli.client import ApiClient, ApiError
from app.cli.export import export_to_folder, unpack
from app.db.unit_of_work import unit_of_work
from app.durable import seal_folder, sha256_of_file, verify_folder
from app.exports import service
from tests.fixtures.api import Api, serving
from tests.fixtures.queue import claim, insert_adapter

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def dialect() -> str:
    """One database: this is about the client."""
    return "sqlite"


@pytest.fixture
def client(api: Api) -> Iterator[ApiClient]:
    with serving(api.app) as url, ApiClient(url) as made:
        yield made


def work(api: Api, files: dict[str, bytes], *, checksum: str | None = None) -> threading.Thread:
    """Plays the worker: waits for the export and ends it with files."""

    def run() -> None:
        while (lease := claim(api.engine)) is None:
            time.sleep(0.02)
        key = f"exports/{lease.job_id}"
        folder = api.settings.blobs_dir / key
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        sealed = seal_folder(folder)
        if "model.gguf" in files:
            sealed = sha256_of_file(folder / "model.gguf")
        with unit_of_work(api.engine) as session:
            service.finish(session, lease, blob_key=key, checksum=checksum or sealed, size_bytes=1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_an_export_lands_whole_in_the_folder_and_leaves_the_product(api: Api, client: ApiClient, tmp_path: Path) -> None:
    work(api, {"config.json": b"{}", "model.safetensors": bytes(3_000_000)})

    export_to_folder(
        client, QUIET, model=insert_adapter(api.engine), format="merged", to=tmp_path / "deep" / "model", keeps=False
    )

    folder = tmp_path / "deep" / "model"
    assert verify_folder(folder)
    assert (folder / "model.safetensors").read_bytes() == bytes(3_000_000)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert client.get("/v1/exports")["data"] == []
    assert list((api.settings.blobs_dir / "exports").iterdir()) == []


def test_a_gguf_export_is_one_file(api: Api, client: ApiClient, tmp_path: Path) -> None:
    work(api, {"model.gguf": b"GGUF" * 1_000})

    export_to_folder(client, QUIET, model=insert_adapter(api.engine), format="gguf", to=tmp_path / "model", keeps=True)

    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.gguf"]
    assert len(client.get("/v1/exports")["data"]) == 1


def test_bytes_that_differ_from_the_checksum_are_not_kept(api: Api, client: ApiClient, tmp_path: Path) -> None:
    work(api, {"config.json": b"{}"}, checksum="0" * 64)

    with pytest.raises(ApiError, match="checksum differs"):
        export_to_folder(client, QUIET, model=insert_adapter(api.engine), format="peft", to=tmp_path / "model", keeps=False)

    assert list(tmp_path.iterdir()) == []
    assert len(client.get("/v1/exports")["data"]) == 1


def test_a_folder_that_holds_something_is_left_alone(api: Api, client: ApiClient, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")

    with pytest.raises(ApiError, match="not an empty folder"):
        export_to_folder(client, QUIET, model="telecom:1", format="peft", to=tmp_path, keeps=False)

    assert client.get("/v1/exports")["data"] == []


def test_what_the_api_refuses_is_said_in_its_words(client: ApiClient, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="There is no model 'nobody'"):
        export_to_folder(client, QUIET, model="nobody", format="peft", to=tmp_path / "model", keeps=False)


def test_a_download_that_is_refused_is_said_in_the_apis_words(client: ApiClient) -> None:
    with pytest.raises(ApiError, match="There is no export 'export-none'"), client.download("/v1/exports/export-none/content"):
        pass


def tar_of(*members: tarfile.TarInfo) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return iter([buffer.getvalue()])


def member(name: str, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("/outside"),
        member("in/side"),
        member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard", type=tarfile.LNKTYPE, linkname="a"),
        member("folder", type=tarfile.DIRTYPE),
        member("device", type=tarfile.CHRTYPE),
        member("sparse", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "99999999999"}, size=1),
    ],
    ids=lambda bad: bad.name,
)
def test_a_tar_with_anything_but_plain_files_is_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    with pytest.raises(ApiError, match="no plain file"):
        unpack(tar_of(member("a", size=1), bad), folder)

    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "a"]


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="damaged"):
        unpack(tar_of(member("a", size=1), member("a", size=2)), tmp_path)


def test_a_torn_tar_is_refused(tmp_path: Path) -> None:
    whole = next(tar_of(member("a", size=5_000)))

    with pytest.raises(ApiError, match="damaged"):
        unpack(iter([whole[:2_000]]), tmp_path)
