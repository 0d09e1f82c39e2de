"""Files and folders that appear whole or not at all.

Write aside on the same file system, fsync the data, rename, fsync the folder. A folder carries `manifest.json` with the
size and SHA-256 of each file; a reader accepts only a folder whose manifest verifies.
"""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

from app.fault_points import reach

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20


class BrokenFolder(Exception):
    """A folder whose manifest is missing or does not match its files."""


def is_disk_full(error: BaseException) -> bool:
    """Says whether an error came of a full disk; safetensors' own names it in its text alone."""
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or f"os error {errno.ENOSPC}" in str(error)


def sha256_of_file(path: Path) -> str:
    """Returns the hex SHA-256 of a file, read in 1 MiB chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_path(path: Path) -> None:
    """Flushes a file's data, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Writes `data` so that `path` holds the old bytes or all the new ones, never a part."""
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    fsync_path(path.parent)


def seal_folder(folder: Path, *, about: dict[str, object] | None = None) -> str:
    """Writes the manifest of a finished folder and flushes every file; returns the folder's checksum.

    The checksum is the SHA-256 over the sorted (name, size, SHA-256) of its files, so equal content has an equal checksum
    whatever `about` says.
    """
    files: dict[str, dict[str, object]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        fsync_path(path)
        files[path.relative_to(folder).as_posix()] = {"size_bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    checksum = _checksum(files)
    manifest = {"version": 1, "checksum": checksum, "files": files, "about": about or {}}
    write_file(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1).encode())
    return checksum


def verify_folder(folder: Path) -> str:
    """Checks every file against the manifest and returns the folder's checksum.

    Raises:
        BrokenFolder: the manifest is missing or unreadable, or a file is missing, short or altered.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = manifest["files"]
        for name, facts in files.items():
            path = folder / name
            if path.stat().st_size != facts["size_bytes"] or sha256_of_file(path) != facts["sha256"]:
                raise BrokenFolder(f"{path} does not match its manifest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenFolder(f"{folder} has no usable manifest: {error}") from error
    checksum = _checksum(files)
    if checksum != manifest.get("checksum"):
        raise BrokenFolder(f"{folder} has a manifest that contradicts itself")
    return checksum


def publish_folder(aside: Path, target: Path) -> None:
    """Renames a sealed folder to its final name; a `target` that is already there wins and `aside` is removed.

    Both must be on one file system.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    reach("before_rename")
    try:
        aside.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(aside)
        return
    fsync_path(target.parent)
    reach("after_rename")


def _checksum(files: dict[str, dict[str, object]]) -> str:
    lines = [f"{name}\t{facts['size_bytes']}\t{facts['sha256']}" for name, facts in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
