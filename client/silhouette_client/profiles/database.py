"""The database under a node's profiles: one file, a connection a thread, transactions that are whole or not at all.

Write-ahead log with `synchronous=FULL`: a write that returned survives a kill and a power cut, and readers do not wait
for writers. `secure_delete` overwrites what is removed. A damaged frame at the end of a write-ahead log is dropped by
SQLite without a word; therefore every close and every `scrub` empties the log.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from silhouette_client.profiles.keys import Keyring
from silhouette_client.profiles.schema import REMEDY, create_or_examine, refuse_newer
from silhouette_shared.closing import Closing
from silhouette_shared.databases import connect, explained, make_file, scrub, transaction, use_log
from silhouette_shared.errors import IntegrityError

_SETTINGS = (
    "synchronous = FULL",
    "secure_delete = ON",
    "trusted_schema = OFF",
    "temp_store = MEMORY",
    "cache_size = -65536",  # KiB
)


class ProfileDatabase(Closing):
    """The file of a profile store, without its rows; safe between threads and processes on one machine.

    Args:
        path: Of the file.
        keyring: Opened keys.
        clock: Seconds since 1970.
    """

    def __init__(self, path: Path, keyring: Keyring, clock: Callable[[], float]) -> None:
        self._path, self._keyring, self._clock = path, keyring, clock
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.RLock()

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._path

    def close(self) -> None:
        """Empty the write-ahead log where nobody else uses it, and close."""
        with self._lock:
            for connection in self._connections:
                with suppress(sqlite3.Error, UnicodeDecodeError):  # closing must not hide what went wrong before
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()
            self._connections.clear()
            self._local = threading.local()

    def scrub(self) -> None:
        """Leave no trace of removed rows in the file or its log.

        Raises:
            UnavailableError: If a reader is in the way for too long.
        """
        with self._explained(), self._lock:
            scrub(self._connection(), str(self._path))

    # For the rows

    def _begin(self) -> None:
        """Make the file and its tables, or examine them.

        Raises:
            IntegrityError: If it is damaged, or these are not its keys.
            UnavailableError: If it cannot be used, or a newer version wrote it.
        """
        try:
            with self._explained():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                make_file(self._path)
                connection = self._connection()
                refuse_newer(connection, str(self._path))
                use_log(connection, str(self._path))
                with self._writing():
                    create_or_examine(connection, self._keyring, str(self._path))
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            yield self._connection()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._lock, transaction(self._connection()) as connection:
            yield connection

    def _check_whole(self) -> None:
        """IntegrityError if SQLite finds the file damaged."""
        with self._reading() as connection:
            if connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
                raise IntegrityError(f"{self._path}: expected a whole store, got a damaged one; {REMEDY}")

    def _seal(self, *parts: object) -> bytes:
        """What a row in clear carries so that a change is noticed; its parts cannot run into one another."""
        return self._keyring.seal(repr(parts).encode("utf-8", "surrogatepass"))  # takes what a damaged row may hold

    def _check_seal(self, seal: bytes, what: str, *parts: object) -> None:
        """IntegrityError, with what it is, if a row in clear was changed."""
        if seal != self._seal(*parts):
            raise IntegrityError(
                f"{self._path}: {what}: expected an entry that this store wrote, got a changed one; {REMEDY}"
            )

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect(self._path, *_SETTINGS)
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection

    def _explained(self) -> AbstractContextManager[None]:
        return explained(str(self._path), "profile store", remedy=REMEDY, outcome="nothing was changed")
