"""Blobs on a local or shared file system."""

import shutil
import uuid
from pathlib import Path
from typing import BinaryIO

from app.durable import fsync_path, publish_folder
from app.fault_points import reach


class LocalBlobStore:
    """A `BlobStore` in one folder; a source on the same file system is renamed in, else copied aside first."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._root.mkdir(parents=True, exist_ok=True)

    def put_file(self, key: str, source: Path) -> None:
        """Moves a finished file in; does nothing if the key is there."""
        target = self._path(key)
        if target.exists():
            source.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex}")
        try:
            shutil.move(source, aside)
            fsync_path(aside)
            reach("before_rename")
            aside.rename(target)
        except BaseException:
            # A full disk must not be filled by what was tried.
            aside.unlink(missing_ok=True)
            raise
        fsync_path(target.parent)
        reach("after_rename")

    def put_folder(self, key: str, source: Path) -> None:
        """Moves a sealed folder in; does nothing if the key is there."""
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex}")
        try:
            shutil.move(source, aside)
            publish_folder(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    def open(self, key: str) -> BinaryIO:
        """Opens a file for reading."""
        return self._path(key).open("rb")

    def fetch(self, key: str, scratch: Path) -> Path:
        """Returns the path in the store itself."""
        path = self._path(key)
        if not path.exists():
            raise FileNotFoundError(key)
        return path

    def exists(self, key: str) -> bool:
        """Says whether a key is there, whole."""
        return self._path(key).exists()

    def delete(self, key: str) -> None:
        """Removes a key; a folder first loses its name, so no reader sees half of it."""
        path = self._path(key)
        if path.is_dir():
            aside = path.with_name(f".{path.name}.gone-{uuid.uuid4().hex}")
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        path = (self._root / key).resolve()
        if not path.is_relative_to(self._root) or path == self._root:
            raise ValueError(f"{key!r} is no blob key")
        return path
