"""The ledger key: 32 random bytes in a file of their own, for the node's user alone."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.privacy.ledger import KEY_BYTES


def make_key(path: Path) -> None:
    """Write a new key, flushed, unless there is one; another process may do the same at the same time.

    The file appears whole or not at all.

    Raises:
        UnavailableError: If it cannot be written.
    """
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.write(file, secrets.token_bytes(KEY_BYTES)) != KEY_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # part of it fitted
            os.fsync(file)
        finally:
            os.close(file)
        with contextlib.suppress(FileExistsError):  # somebody else was faster, and theirs is the key
            os.link(draft, path)
    except OSError as error:
        raise UnavailableError(
            f"{path}: expected to write the ledger key, got {error.strerror or error}; mend that and start again"
        ) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def read_key(path: Path) -> bytes:
    """The key of a ledger, 32 bytes.

    Raises:
        IntegrityError: If there is none, or it has another length.
        UsageError: If others than its owner may read or write it, or it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise IntegrityError(
            f"{path}: expected the key of this ledger, found none; put it back from where it is kept: without it "
            "nobody can tell whether the ledger was changed"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: expected a key that can be read, got {error.strerror}") from None
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path}: expected a file, got something else; put the key there")
        if mode & 0o077:
            raise UsageError(
                f"{path}: expected a key for its owner alone (mode 600), got mode {stat.S_IMODE(mode):o}; "
                f"chmod 600 {path}, and find out who read it"
            )
        key = os.read(file, KEY_BYTES + 1)
    finally:
        os.close(file)
    if len(key) != KEY_BYTES:
        raise IntegrityError(
            f"{path}: expected {KEY_BYTES} bytes, got another length; put the key back from where it is kept"
        )
    return key
