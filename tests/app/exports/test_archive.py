"""The streamed tar: what Python's tarfile makes of it, byte for byte the same each time, and of the promised length."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exports.archive import open_file, open_tar

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=120).filter(lambda name: name.strip("."))


def filled(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@given(files=st.dictionaries(NAMES, st.binary(max_size=2_000), max_size=5))
def test_a_tar_holds_every_file_and_has_the_length_it_told(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    content = open_tar(filled(tmp_path_factory.mktemp("tar") / "folder", files))

    sent = b"".join(content.chunks)

    assert len(sent) == content.size_bytes
    with tarfile.open(fileobj=io.BytesIO(sent)) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    assert found == files


def test_the_same_files_give_the_same_bytes_whoever_wrote_them_when(tmp_path: Path) -> None:
    one = filled(tmp_path / "one", {"b": b"2", "a": b"1"})
    other = filled(tmp_path / "other", {"a": b"1", "b": b"2"})
    os.utime(other / "a", (1, 1))
    (other / "b").chmod(0o600)

    assert b"".join(open_tar(one).chunks) == b"".join(open_tar(other).chunks)


def test_files_that_are_deleted_while_they_are_sent_arrive_whole(tmp_path: Path) -> None:
    folder = filled(tmp_path / "folder", {"a": b"1" * 5_000, "b": b"2" * 5_000})
    content = open_tar(folder)
    for path in folder.iterdir():
        path.unlink()

    sent = b"".join(content.chunks)

    assert len(sent) == content.size_bytes
    assert b"2" * 5_000 in sent


def test_a_large_file_is_sent_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(3 * 1024 * 1024 + 1))

    assert max(len(chunk) for chunk in open_file(path).chunks) <= 1024 * 1024


def test_a_file_beyond_eight_gibibytes_keeps_its_size(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder" / "shard").open("wb") as sparse:
        sparse.truncate(9 * 1024**3)

    content = open_tar(tmp_path / "folder")

    header = b""
    while len(header) < 3 * tarfile.BLOCKSIZE:
        header += next(content.chunks)
    with tarfile.open(fileobj=io.BytesIO(header)) as archive:
        member = archive.next()
    assert member is not None and member.size == 9 * 1024**3
    assert content.size_bytes > 9 * 1024**3


def test_a_folder_that_is_gone_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_tar(tmp_path / "nothing")
