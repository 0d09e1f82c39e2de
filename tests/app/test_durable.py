import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.durable import MANIFEST, BrokenFolder, publish_folder, seal_folder, sha256_of_file, verify_folder, write_file


def make_folder(place: Path, *, last: bytes = b"three") -> Path:
    (place / "sub").mkdir(parents=True)
    (place / "one").write_bytes(b"one" * 1000)
    (place / "业务.bin").write_bytes(bytes(range(256)))
    (place / "empty").touch()
    (place / "sub" / "three").write_bytes(last)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "folder")


def test_a_sealed_folder_verifies_with_its_checksum(folder: Path) -> None:
    assert seal_folder(folder) == verify_folder(folder)


def test_sealing_again_gives_the_same_checksum(folder: Path) -> None:
    assert seal_folder(folder) == seal_folder(folder)


def test_equal_content_has_an_equal_checksum_whatever_is_said_about_it(folder: Path, tmp_path: Path) -> None:
    assert seal_folder(folder, about={"step": 1}) == seal_folder(make_folder(tmp_path / "other"), about={"step": 2})


def test_other_content_has_another_checksum(folder: Path, tmp_path: Path) -> None:
    assert seal_folder(folder) != seal_folder(make_folder(tmp_path / "other", last=b"THREE"))


def test_the_same_content_under_another_name_has_another_checksum(folder: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other")
    (other / "one").rename(other / "uno")
    assert seal_folder(folder) != seal_folder(other)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, lengthen, empty, Path.unlink])
@pytest.mark.parametrize("name", ["one", "业务.bin", "sub/three"])
def test_damage_to_any_file_is_found(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    seal_folder(folder)
    damage(folder / name)
    with pytest.raises(BrokenFolder):
        verify_folder(folder)


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink])
def test_damage_to_the_manifest_is_found(folder: Path, damage: Callable[[Path], None]) -> None:
    seal_folder(folder)
    damage(folder / MANIFEST)
    with pytest.raises(BrokenFolder):
        verify_folder(folder)


@pytest.mark.parametrize(
    "text", ["[]", "{}", "null", '{"files": []}', '{"files": {"one": 1}}', '{"files": {"one": {}}}', '{"files": {}}', "\x00"]
)
def test_a_manifest_of_another_form_is_found(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(BrokenFolder):
        verify_folder(folder)


def test_a_file_that_the_manifest_lost_is_found(folder: Path) -> None:
    seal_folder(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]["one"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BrokenFolder, match="contradicts"):
        verify_folder(folder)


def test_a_file_below_that_is_named_like_the_manifest_is_sealed_too(folder: Path) -> None:
    (folder / "sub" / MANIFEST).write_text("{}")
    seal_folder(folder)
    lengthen(folder / "sub" / MANIFEST)
    with pytest.raises(BrokenFolder):
        verify_folder(folder)


def test_a_folder_that_is_not_there_is_broken(tmp_path: Path) -> None:
    with pytest.raises(BrokenFolder):
        verify_folder(tmp_path / "nowhere")


def test_a_published_folder_stands_under_its_final_name_only(folder: Path, tmp_path: Path) -> None:
    checksum = seal_folder(folder)
    publish_folder(folder, tmp_path / "new" / "final")
    assert verify_folder(tmp_path / "new" / "final") == checksum
    assert not folder.exists()


def test_a_target_that_is_already_there_wins(folder: Path, tmp_path: Path) -> None:
    target = make_folder(tmp_path / "final", last=b"first")
    checksum = seal_folder(target)
    seal_folder(folder)
    publish_folder(folder, target)
    assert verify_folder(target) == checksum
    assert not folder.exists()


def test_a_target_that_is_a_file_is_refused_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "final").write_text("mine")
    with pytest.raises(OSError, match="final"):
        publish_folder(folder, tmp_path / "final")
    assert (folder / "one").exists()
    assert (tmp_path / "final").read_text() == "mine"


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")
    write_file(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_a_reader_sees_the_old_bytes_or_all_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = {bytes([letter]) * 2_000_000 for letter in b"ab"}
    write_file(path, min(contents))
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in [*contents] * 5:
        write_file(path, content)
    done.set()
    reader.join()
    assert seen <= contents


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")
    with pytest.raises(TypeError):
        write_file(tmp_path / "file", "no bytes")  # type: ignore[arg-type]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
