"""Whole files: what is read is what was written, all of it, also after a kill or a power cut."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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


def flush_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
