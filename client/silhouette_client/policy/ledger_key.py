"""The ledger key: 32 random bytes in a file of their own, for the node's user alone."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.ledger import KEY_BYTES
from silhouette_shared.private_files import read_private, write_new


def make_key(path: Path) -> None:
    """Write a new key, flushed, unless there is one; another process may do the same at the same time.

    Raises:
        UnavailableError: If it cannot be written.
    """
    if path.exists():
        return
    with contextlib.suppress(UsageError):  # somebody else was faster, and theirs is the key
        write_new(path, secrets.token_bytes(KEY_BYTES))


def read_key(path: Path) -> bytes:
    """The key of a ledger, 32 bytes.

    Raises:
        IntegrityError: If there is none, or it has another length.
        UsageError: If others than its owner may read or write it, or it cannot be read.
    """
    if not path.exists():
        raise IntegrityError(
            f"{path}: expected the key of this ledger, found none; put it back from where it is kept: without it "
            "nobody can tell whether the ledger was changed"
        )
    return read_private(path, KEY_BYTES)
