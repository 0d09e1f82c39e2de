"""Blobs on object storage, through fsspec: S3 and what speaks its dialect."""

import shutil
import tarfile
import tempfile
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# Beside a folder's key, so that a file and a folder of one name are told apart.
_FOLDER = ".tar"


class RemoteBlobStore:
    """A `BlobStore` under one prefix of an object store. A folder is one object, a tar without compression.

    Object storage shows an object once it is there whole, and that is all that is relied on: nothing is renamed or listed. Two
    writers of one key send `If-None-Match: *`, so the first wins; where a server does not know that header, the last one does,
    which is as good: keys are made anew for each writer, or after what they hold.
    """

    def __init__(self, files: "AbstractFileSystem", root: str) -> None:
        self._files = files
        self._root = PurePosixPath(root)

    def put_file(self, key: str, source: Path) -> None:
        """Uploads a finished file and removes it here; only removes it if the key is there."""
        self._upload(self._path(key), source)
        source.unlink()

    def put_folder(self, key: str, source: Path) -> None:
        """Uploads a sealed folder and removes it here; only removes it if the key is there."""
        path = self._path(key) + _FOLDER
        with tempfile.TemporaryDirectory(dir=source.parent, prefix=".packed-") as scratch:
            packed = Path(scratch) / "folder.tar"
            with tarfile.open(packed, "w") as archive:
                archive.add(source, arcname=".")
            self._upload(path, packed)
        shutil.rmtree(source)

    def open(self, key: str) -> BinaryIO:
        """Opens a copy for reading: it stays whole whatever becomes of the key."""
        path = self._path(key)
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "copy"
            self._files.get_file(path, str(copy))
            return copy.open("rb")

    def fetch(self, key: str, scratch: Path) -> Path:
        """Copies a file or folder into a place of its own in `scratch` and returns it."""
        path = self._path(key)
        place = scratch / f"blob-{uuid.uuid4().hex}"
        if not self._is_object(path + _FOLDER):
            place.mkdir()
            target = place / PurePosixPath(path).name
            self._files.get_file(path, str(target))
            return target
        packed = place.with_suffix(".tar")
        try:
            self._files.get_file(path + _FOLDER, str(packed))
            with tarfile.open(packed) as archive:
                archive.extractall(place, filter="data")
        finally:
            packed.unlink(missing_ok=True)
        return place

    def exists(self, key: str) -> bool:
        """Says whether a key is there, whole."""
        path = self._path(key)
        return self._is_object(path) or self._is_object(path + _FOLDER)

    def delete(self, key: str) -> None:
        """Removes a key."""
        path = self._path(key)
        for one in (path, path + _FOLDER):
            if self._is_object(one):
                self._files.rm_file(one)

    def _upload(self, path: str, source: Path) -> None:
        if not source.is_file():
            raise FileNotFoundError(str(source))
        if self._is_object(path):
            return
        try:
            self._files.put_file(str(source), path, mode="create")
        except FileExistsError:
            # Another writer was faster: its bytes stay.
            return
        except OSError:
            if not self._is_object(path):
                raise

    def _is_object(self, path: str) -> bool:
        try:
            return bool(self._files.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def _path(self, key: str) -> str:
        if not key or key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")):
            raise ValueError(f"{key!r} is no blob key")
        return str(self._root / key)
