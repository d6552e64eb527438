"""Whole files: what is read is what was written, all of it, also after a kill or a power cut."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path

_PAUSE_SECONDS = 0.02
"""Between two looks at a lock."""


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file by new content, whole or not at all; on the disk, with its name, when this returns.

    A kill may leave a draft beside it, `.<name>.<letters>.tmp`, which nothing reads.

    Args:
        path: Its folder exists.
        content: All of the file.
        mode: Who may read it, from its first byte on; the process's mask takes away from it.

    Raises:
        OSError: If it cannot be written; the file is then as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def stamp(path: Path) -> tuple[int, ...]:
    """What changes whenever a file is replaced or written; empty if there is none. Reads nothing of it."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return ()
    return state.st_ino, state.st_size, state.st_mtime_ns


def lock_alone(file: int, seconds: float) -> bool:
    """Take the lock of an open file for this process alone; False if another holds it for all of so many seconds.

    Who holds one for a moment, as a command that only looks does, is waited for.

    Raises:
        OSError: If files cannot be locked there.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            return True


def flush_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
