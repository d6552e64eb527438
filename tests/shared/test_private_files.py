"""Files appear whole, with their modes, and never in place of another one unless that was asked for."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.private_files import (
    PUBLIC,
    locked,
    make_folder,
    read_private,
    read_public,
    replace,
    write_new,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_are_what_was_asked_for_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_new(tmp_path / "key", b"k")
        os.umask(0o077)
        write_new(tmp_path / "public", b"p", PUBLIC)
        replace(tmp_path / "again", b"a")
    finally:
        os.umask(before)
    assert [mode(tmp_path / name) for name in ("key", "public", "again")] == [0o600, 0o644, 0o600]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "key", "public"]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    write_new(tmp_path / "key", b"first")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        write_new(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"
    replace(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("write", [write_new, replace])
def test_a_disk_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write) -> None:  # type: ignore[no-untyped-def]
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    replace(tmp_path / "old", b"old")
    monkeypatch.setattr("silhouette_shared.private_files.os.fsync", fail)
    with pytest.raises(UnavailableError, match="No space left"):
        write(tmp_path / "new", b"new")
    with pytest.raises(UnavailableError, match="No space left"):
        replace(tmp_path / "old", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_secret_is_read_whole_and_from_its_owner_alone(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with pytest.raises(UsageError, match="found none"):
        read_private(key)
    write_new(key, bytes(32))
    assert read_private(key, 32) == bytes(32)
    with pytest.raises(IntegrityError, match="of 16 bytes, got 32"):
        read_private(key, 16)
    for wrong in (0o640, 0o604, 0o620):
        key.chmod(wrong)
        with pytest.raises(UsageError, match=f"got mode {wrong:o}"):
            read_private(key)
    with pytest.raises(UsageError, match="expected a file"):
        read_private(tmp_path)


def test_a_document_that_is_missing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a roster, found none; ask for it"):
        read_public(tmp_path / "roster", "a roster", "ask for it")
    with pytest.raises(UsageError, match="cannot be read"):
        read_public(tmp_path, "a roster", "ask for it")


def test_a_folder_is_for_its_owner_alone_or_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "a" / "b").chmod(0o750)
    with pytest.raises(UsageError, match="chmod 700"):
        make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="got something else"):
        make_folder(tmp_path / "file")


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    """A child that waits for the lock writes after its parent, whatever the order in which they began."""
    go, told = os.pipe()
    child = os.fork()  # before there is a lock, which a child would inherit with the descriptor
    if child == 0:
        try:
            os.read(go, 1)
            with locked(tmp_path):
                (tmp_path / "log").write_text((tmp_path / "log").read_text() + "child")
        finally:
            os._exit(0)
    with locked(tmp_path):
        os.write(told, b"x")
        time.sleep(0.2)  # time in which the child would write, were it not for the lock
        (tmp_path / "log").write_text("parent ")
    os.waitpid(child, 0)
    assert (tmp_path / "log").read_text() == "parent child"
