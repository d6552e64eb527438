"""Keys and documents on disk: whole or not there, flushed, and the private ones for their owner alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.files import flush_folder

PRIVATE = 0o600
PUBLIC = 0o644
_FOLDER = 0o700


def make_folder(path: Path) -> None:
    """Make a folder that its owner alone may enter, and those above it.

    Raises:
        UsageError: If others may enter it already, or something else has its name.
        UnavailableError: If it cannot be made.
    """
    try:
        path.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{path}: expected a folder, got something else; move it away") from None
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be made: {error.strerror or error}") from None
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UsageError(
            f"{path}: expected a folder for its owner alone (mode 700), got mode {mode:o}; chmod 700 {path}"
        )


def write_new(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file that is not there yet; it appears whole, flushed and with its mode.

    Raises:
        UsageError: If there is one.
        UnavailableError: If it cannot be written.
    """
    with _draft(path, data, mode) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            raise UsageError(
                f"{path}: expected no such file yet, found one; nothing is overwritten: move it away first"
            ) from None
    flush_folder(path.parent)


def replace(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file in place of the one that may be there; whoever reads sees the old or the new one, whole.

    Raises:
        UnavailableError: If it cannot be written; the old one stays.
    """
    with _draft(path, data, mode) as draft:
        draft.replace(path)
    flush_folder(path.parent)


def read_private(path: Path, size: int | None = None) -> bytes:
    """The bytes of a secret file.

    Args:
        path: Of the file.
        size: How many it has to have; None takes any.

    Raises:
        UsageError: If there is none, it cannot be read, or others than its owner may read it.
        IntegrityError: If it has another size.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UsageError(f"{path}: expected a key, found none; put it back, or make this home anew") from None
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
        with os.fdopen(file, "rb", closefd=False) as opened:
            data = opened.read()
    finally:
        os.close(file)
    if size is not None and len(data) != size:
        raise IntegrityError(
            f"{path}: expected a key of {size} bytes, got {len(data)}; put it back from where it is kept"
        )
    return data


def read_public(path: Path, what: str, remedy: str) -> bytes:
    """The bytes of a document.

    Args:
        path: Of the file.
        what: Names it in the error.
        remedy: What to do if it is missing.

    Raises:
        UsageError: If there is none, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: expected {what}, found none; {remedy}") from None
    except OSError as error:
        raise UsageError(f"{path}: expected {what}, got a file that cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that changes what is in a folder, which exists; others wait."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _draft(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """The content in a file of another name beside it, flushed; gone afterwards unless it was moved."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask says
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    except OSError as error:
        raise UnavailableError(
            f"{path}: cannot be written: {error.strerror or error}; mend that and try again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
