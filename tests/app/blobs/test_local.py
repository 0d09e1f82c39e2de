from pathlib import Path

import pytest

from app.blobs.local import LocalBlobStore


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if path.name.startswith(".")]


def test_a_file_is_renamed_in_and_never_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    inode = source.stat().st_ino

    LocalBlobStore(tmp_path / "store").put_file("files/a", source)

    assert (tmp_path / "store" / "files" / "a").stat().st_ino == inode


def test_a_put_that_breaks_before_the_rename_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalBlobStore(tmp_path / "store")
    source = tmp_path / "source"
    source.write_bytes(b"x")

    def power_cut(path: Path) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("app.blobs.local.fsync_path", power_cut)
    with pytest.raises(OSError, match="power cut"):
        store.put_file("files/a", source)

    assert not store.exists("files/a")


def test_finished_puts_and_deletions_leave_nothing_aside(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "store")
    for name in ("file", "again"):
        (tmp_path / name).write_bytes(b"x")
        store.put_file("files/a", tmp_path / name)
    (tmp_path / "folder").mkdir()
    store.put_folder("adapters/a", tmp_path / "folder")
    store.delete("adapters/a")

    assert leftovers(tmp_path / "store") == []


def test_a_link_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "store")
    (tmp_path / "outside").mkdir()
    (tmp_path / "store" / "files").symlink_to(tmp_path / "outside")

    with pytest.raises(ValueError):
        store.exists("files/a")


def test_two_stores_on_one_folder_see_the_same(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    LocalBlobStore(tmp_path / "store").put_file("files/a", tmp_path / "source")

    assert LocalBlobStore(tmp_path / "store").exists("files/a")
