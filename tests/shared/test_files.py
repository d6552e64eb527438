"""A file is the old one or the new one, whole, whatever fails in between."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from silhouette_shared.files import lock_alone, stamp, write_atomically


def test_a_file_in_the_way_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"long old content")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_its_owners_alone_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    flush = os.fsync

    def look(handle: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        flush(handle)

    monkeypatch.setattr(os, "fsync", look)
    write_atomically(tmp_path / "key", b"secret", mode=0o600)
    assert seen[0] == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_the_content_and_then_the_name_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: kinds.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
    )
    write_atomically(tmp_path / "file", b"new")
    assert kinds == ["file", "folder"]


@pytest.mark.parametrize("moment", ["open", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failure_before_the_end_leaves_the_old_file_and_nothing_else(
    moment: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path if moment == "replace" else os, moment, fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_to_flush_the_name_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def fail(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "broken")
        flush(handle)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken"):
        write_atomically(tmp_path / "file", b"new")


def test_a_stamp_changes_with_every_writing_and_says_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "held"
    assert stamp(path) == ()
    write_atomically(path, b"one")
    first = stamp(path)
    assert first == stamp(path) != ()
    write_atomically(path, b"two")
    assert stamp(path) != first


def test_a_lock_that_somebody_looks_at_is_waited_for_and_one_that_is_held_is_not_taken(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as mine, (tmp_path / "lock").open() as theirs:
        fcntl.flock(theirs, fcntl.LOCK_SH)
        assert not lock_alone(mine.fileno(), 0.0)
        assert not lock_alone(mine.fileno(), 0.1)
        threading.Timer(0.2, fcntl.flock, [theirs, fcntl.LOCK_UN]).start()
        assert lock_alone(mine.fileno(), 60.0)
        with pytest.raises(BlockingIOError):
            fcntl.flock(theirs, fcntl.LOCK_SH | fcntl.LOCK_NB)
