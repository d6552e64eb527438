"""SQLite as all files of ours use it: made for their owner alone, opened, written in transactions, failures explained.

What a database holds, and what is checked about it, lies with the module whose it is.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.files import flush_folder

_T = TypeVar("_T")

_LOCK_SECONDS = 30.0
"""How long one process waits for another that writes."""

_PAUSE_SECONDS = 0.02
"""Between two tries where SQLite does not wait by itself."""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_INCONSISTENT = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
_IN_THE_WAY = {
    sqlite3.SQLITE_FULL: "the disk is full; free some",
    sqlite3.SQLITE_BUSY: "another process holds the {what}; wait for it or stop it",
    sqlite3.SQLITE_LOCKED: "another process holds the {what}; wait for it or stop it",
    sqlite3.SQLITE_READONLY: "it may not be written; let the user who runs this write it and its folder",
    sqlite3.SQLITE_PERM: "it may not be written; let the user who runs this write it and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; let the user who runs this write it and its folder",
    sqlite3.SQLITE_IOERR: "the disk failed or is full; mend it or free some",
    sqlite3.SQLITE_NOMEM: "memory is short; free some",
}


@contextmanager
def explained(place: str, what: str, *, remedy: str, outcome: str) -> Iterator[None]:
    """Turn SQLite's failures into what to do.

    Args:
        place: Path of the database.
        what: What it holds, in a word or two.
        remedy: What to do with a damaged one.
        outcome: What did not happen, when something is in the way.

    Raises:
        IntegrityError: If the database is damaged.
        UnavailableError: If it cannot be used now.
    """
    try:
        yield
    except UnicodeDecodeError:  # SQLite quotes a damaged table in its message, and Python cannot read that
        raise IntegrityError(f"{place}: expected a whole {what}, got a damaged one; {remedy}") from None
    except sqlite3.Error as error:
        # The low byte is the kind; the rest says where it happened. Text that is no UTF-8 comes without a code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _DAMAGED | _INCONSISTENT:
            raise IntegrityError(f"{place}: expected a whole {what}, got a damaged one ({error}); {remedy}") from error
        if code in _IN_THE_WAY:
            name = getattr(error, "sqlite_errorname", "")
            reason = _IN_THE_WAY[code].format(what=what)
            raise UnavailableError(f"{place}: {reason} ({name}); {outcome}") from error
        raise


def make_file(path: Path) -> None:
    """Make an empty file, its owner's alone, unless there is one; its name is on the disk when this returns.

    SQLite would make it with the process' mask, and gives its journal the mode of the database.

    Raises:
        UnavailableError: If the disk or its folder does not let it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise UnavailableError(
            f"{path}: expected to write here, got {error.strerror or error}; mend that and start again"
        ) from None
    flush_names(path)


def flush_names(path: Path) -> None:
    """Make sure that the folder of a file is on the disk.

    Raises:
        UnavailableError: If it cannot be flushed.
    """
    try:
        flush_folder(path.parent)
    except OSError as error:
        raise UnavailableError(
            f"{path.parent}: expected a folder that can be flushed, got {error.strerror or error}; mend the disk and "
            "start again"
        ) from None


def connect(path: Path, *settings: str) -> sqlite3.Connection:
    """Open a database; transactions are begun by hand, and threads take turns by a lock of their own.

    Args:
        path: Of the database.
        settings: Of `PRAGMA`, in their order.
    """
    connection = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_SECONDS, check_same_thread=False)
    try:
        for setting in settings:
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_with_rollback(path: Path, what: str) -> sqlite3.Connection:
    """Open a database that is one whole file at rest: a rollback journal, truncated, everything flushed.

    A write-ahead log is faster, but SQLite drops what follows a bad frame of it without a word.

    Args:
        path: Of the database.
        what: What it holds, in a word.

    Raises:
        UnavailableError: If it can have no such journal where it lies.
    """
    connection = connect(path, "synchronous = FULL", "recursive_triggers = ON", "trusted_schema = OFF")
    try:
        mode = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
        if mode != ("truncate",):
            raise UnavailableError(f"{path}: expected a rollback journal, got {mode}; put the {what} on a local disk")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Hold the database against other writers, and commit at the end or leave it as it was."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # A failed COMMIT or a full disk may have ended it already; the first error is the one to tell.
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def marks(values: Collection[object]) -> str:
    """As many question marks as values, for `IN`."""
    return ",".join("?" * len(values))


def in_parts(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Values in lists of at most `size`, as many as a statement or a transaction takes."""
    part: list[_T] = []
    for one in values:
        part.append(one)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def use_log(connection: sqlite3.Connection, place: str) -> None:
    """Write into a write-ahead log from now on, as every connection of a database that has one does.

    Raises:
        sqlite3.OperationalError: If another process holds the database for too long.
        UnavailableError: If the disk cannot have such a log.
    """
    until = _until(connection)
    while (mode := _log_mode(connection, until)) is None:
        time.sleep(_PAUSE_SECONDS)
    if mode != "wal":
        raise UnavailableError(f"{place}: expected a write-ahead log, got {mode}; put it on a local disk")


def scrub(connection: sqlite3.Connection, place: str) -> None:
    """Leave no trace of what was removed, in the database or in its write-ahead log.

    Raises:
        UnavailableError: If a reader keeps the log for too long.
    """
    empty_log(connection, place)
    connection.execute("VACUUM")
    empty_log(connection, place)


def empty_log(connection: sqlite3.Connection, place: str) -> None:
    """Bring a write-ahead log into its database and cut it to nothing, so that what was removed is in neither.

    Raises:
        UnavailableError: If a reader keeps it for too long.
    """
    until = _until(connection)
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:  # busy
        if time.monotonic() > until:
            raise UnavailableError(
                f"{place}: removed, but a reader keeps the write-ahead log from being emptied; stop it and run the "
                "same command again"
            )
        time.sleep(_PAUSE_SECONDS)  # SQLite waits for readers, not for another connection that does the same


def _log_mode(connection: sqlite3.Connection, until: float) -> str | None:
    """What a database writes into once it was asked for a write-ahead log; None if it cannot tell yet."""
    try:
        mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    except sqlite3.OperationalError as error:  # at once, where another process makes the same file
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY and time.monotonic() < until:
            return None
        raise
    return mode


def _until(connection: sqlite3.Connection) -> float:
    """When this connection has waited long enough, by the monotonic clock."""
    milliseconds: int = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    return time.monotonic() + milliseconds / 1000
