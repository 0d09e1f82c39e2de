"""The promise of a blob store."""

from pathlib import Path
from typing import BinaryIO, Protocol


class BlobStore(Protocol):
    """Keeps files and sealed folders under keys such as `files/file-1a2b`. Safe for several processes.

    A key appears whole or not at all and never changes afterwards. Keys are made by the product, never by users.
    """

    def put_file(self, key: str, source: Path) -> None:
        """Moves a finished file in; does nothing if the key is there."""
        ...

    def put_folder(self, key: str, source: Path) -> None:
        """Moves a sealed folder in; does nothing if the key is there."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Opens a file for reading.

        Raises:
            FileNotFoundError: no such key.
        """
        ...

    def fetch(self, key: str, scratch: Path) -> Path:
        """Returns a local path of a file or folder, to be read only; a remote store copies it into `scratch`.

        Raises:
            FileNotFoundError: no such key.
        """
        ...

    def exists(self, key: str) -> bool:
        """Says whether a key is there, whole."""
        ...

    def delete(self, key: str) -> None:
        """Removes a key; does nothing if it is not there."""
        ...
