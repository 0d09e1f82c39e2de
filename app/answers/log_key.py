"""The key of the log's question hashes: without it, nobody can try out which question a hash stands for."""

import os
import secrets
from pathlib import Path

_BYTES = 32


def read_or_make_key(path: Path) -> bytes:
    """Returns the key of a data folder, made by whichever api process comes first; for its owner's eyes only.

    Whoever deletes the file makes the hashes of before incomparable with those of after.

    Raises:
        ValueError: the file is none of ours.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, because it fails where the other process was faster; a rename would take that one's key away.
            path.hardlink_to(aside)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    key = bytes.fromhex(path.read_text())
    if len(key) != _BYTES:
        raise ValueError(f"{path} holds no key of {_BYTES} bytes. Restore it, or delete it: then old hashes match no new ones.")
    return key
