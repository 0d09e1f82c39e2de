"""`dianda export`: asks the API for an export, waits, and puts it into a folder that appears whole or not at all."""

import io
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from app.cli.client import ApiClient, ApiError
from app.cli.waiting import wait_for_success
from app.durable import BrokenFolder, fsync_path, publish_folder, sha256_of_file, verify_folder
from app.ml.export_folders import GGUF_FILE


def export_to_folder(client: ApiClient, console: Console, *, model: str, format: str, to: Path, keeps: bool) -> dict[str, Any]:
    """Exports `model` into the folder `to` and returns the export; the product's own copy is deleted afterwards unless `keeps`.

    Raises:
        ApiError: the folder is in use, the API refused, the export failed, or what arrived is not what was sent.
    """
    to = to.absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ApiError(f"{to} is not an empty folder. Name one that is not there yet.")
    path = f"/v1/exports/{client.post('/v1/exports', {'model': model, 'format': format})['id']}"
    try:
        export = wait_for_success(console, f"Exporting {model} as {format}", lambda: client.get(path))
    except KeyboardInterrupt:
        with suppress(ApiError):
            client.post(f"{path}/cancel")
        raise
    aside = to.with_name(f".{to.name}.tmp-{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        _download(client, console, path, export, aside)
        publish_folder(aside, to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not keeps:
        client.delete(path)
    console.print(f"[green]{export['adapter']}[/green] is in {to}.")
    return export


def unpack(chunks: Iterator[bytes], folder: Path) -> None:
    """Unpacks a streamed tar of plain files into a folder; nothing can land outside of it.

    Raises:
        ApiError: the tar is torn, or holds anything but plain files with plain names.
    """
    try:
        with tarfile.open(fileobj=_Pipe(chunks), mode="r|") as archive:
            for member in archive:
                # A sparse file may claim terabytes that it does not bring.
                if not member.isreg() or member.issparse() or Path(member.name).name != member.name:
                    raise ApiError(f"The export holds {member.name!r}, which is no plain file. Nothing was kept.")
                source = archive.extractfile(member)
                assert source is not None
                with (folder / member.name).open("xb") as target:
                    shutil.copyfileobj(source, target)
    except (tarfile.TarError, FileExistsError) as error:
        raise ApiError(f"The export is damaged ({error}). Export it again.") from error


def _download(client: ApiClient, console: Console, path: str, export: dict[str, Any], aside: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with client.download(f"{path}/content") as (size_bytes, chunks), Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Downloading", total=size_bytes)

        def counted() -> Iterator[bytes]:
            for chunk in chunks:
                bar.advance(task, len(chunk))
                yield chunk

        if export["format"] == "gguf":
            with (aside / GGUF_FILE).open("wb") as file:
                file.writelines(counted())
        else:
            unpack(counted(), aside)
    try:
        found = sha256_of_file(aside / GGUF_FILE) if export["format"] == "gguf" else verify_folder(aside)
    except BrokenFolder:
        found = None
    if found != export["checksum"]:
        raise ApiError("What arrived is not what was sent: its checksum differs. Export it again.")
    for file_path in aside.iterdir():
        fsync_path(file_path)


class _Pipe(io.RawIOBase):
    """Chunks as a file that is read once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        """Says yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer with what the next chunk gives, at most."""
        while not self._left:
            try:
                self._left = next(self._chunks)
            except StopIteration:
                return 0
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
