"""The profiles of a partner's people on the disk: SQLite, each person under a data key of their own.

A person appears as an HMAC. Each field of a record is sealed with AES-256-GCM under the person's data key, the data key
under a key-encryption key, and every column that says something about them (store, person, field, row version, model,
expiry) is in the associated data: a row that was changed, swapped or moved does not open. Every write of a record makes
a new data key, so the old record is shredded and no nonce is used twice.

Write-ahead log with `synchronous=FULL`: a write that returned survives a kill and a power cut, and readers do not wait
for writers. `secure_delete` overwrites what is removed. A damaged frame at the end of a write-ahead log is dropped by
SQLite without a word; therefore every close and every `erase` empties the log.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from silhouette_client.databases import explained
from silhouette_client.profiles.keys import Keyring, WrappedKey
from silhouette_client.profiles.record import FIELDS, ProfileRecord
from silhouette_client.profiles.schema import REMEDY, create_or_examine, refuse_newer
from silhouette_client.profiles.sealing import (
    BrokenRowError,
    SealedField,
    SealedRecord,
    key_context,
    names_of,
    open_record,
    seal_record,
    unwrap_key,
)
from silhouette_shared.errors import IntegrityError, RefusedError, UnavailableError, UsageError

STORE_NAME = "profiles.sqlite"
"""In a node's home."""

_LOCK_SECONDS = 30.0
_NEVER = 2**62  # an expiry that does not come
_ROWS_A_TRANSACTION = 500


class Exclusion(StrEnum):
    """Why a person is left out of profiles, of imports and of training."""

    suppressed = "suppressed"
    erased = "erased"


class ExcludedError(RefusedError):
    """A profile was written for a person on the exclusion list. Exit code 3."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long each field is kept, in seconds from its writing; a field that is not named stays with its model.

    Raises:
        UsageError: If a field is unknown or a time is not positive.
    """

    seconds: Mapping[str, int]

    def __post_init__(self) -> None:
        """Refuse a field that would silently be kept for ever."""
        for name, value in self.seconds.items():
            if name not in FIELDS or value <= 0:
                raise UsageError(
                    f"expected a positive time for one of {', '.join(FIELDS)}, got {value} for {name!r}; change it"
                )


KEEP = Retention(seconds={})


@dataclass(frozen=True)
class Erased:
    """What an erasure took from the store."""

    fields: tuple[str, ...]
    model: str | None  # that made the profile, None where there was none
    data_key: bool  # whether a wrapped key was there and is gone


@dataclass(frozen=True)
class Counts:
    """What a whole store holds."""

    people: int
    fields: int
    exclusions: int
    wrapped_by: Mapping[int, int]  # people by key-encryption key


class ProfileStore:
    """The encrypted profiles of one node. Use `open`; safe between threads and processes on one machine.

    Args:
        path: Of the database.
        keyring: Opened keys.
        retention: Applied to what is written from now on.
        clock: Seconds since 1970.
    """

    def __init__(self, path: Path, keyring: Keyring, retention: Retention, clock: Callable[[], float]) -> None:
        self._path, self._keyring, self._retention, self._clock = path, keyring, retention, clock
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        path: Path,
        keyring: Keyring,
        *,
        retention: Retention = KEEP,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open the store, or make an empty one.

        Raises:
            IntegrityError: If it is damaged, or these are not its keys.
            UnavailableError: If it cannot be used, or a newer version wrote it.
        """
        store = cls(path, keyring, retention, clock)
        try:
            with store._explained():
                store._begin()
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Empty the write-ahead log where nobody else uses it, and close."""
        with self._lock:
            for connection in self._connections:
                with suppress(sqlite3.Error, UnicodeDecodeError):  # closing must not hide what went wrong before
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()
            self._connections.clear()
            self._local = threading.local()

    # Records

    def put(self, person: bytes, record: ProfileRecord) -> None:
        """Write one person's record in place of what was there; it is on the disk when this returns.

        Raises:
            ExcludedError: If the person is on the exclusion list.
            UnavailableError: If it cannot be written; then what was there still is.
        """
        with self._writing() as connection:
            if self._exclusion(connection, person) is not None:
                raise ExcludedError(
                    "expected a person who may be profiled, got one on the exclusion list; lift it with "
                    "`silhouette subject unsuppress` if the person agrees"
                )
            self._write(connection, person, record)

    def put_many(self, records: Iterable[tuple[bytes, ProfileRecord]]) -> tuple[int, int]:
        """Write many records, some hundred to a transaction; people on the exclusion list are left out.

        Returns:
            How many were written and how many left out.
        """
        written = left_out = 0
        for part in _parts(records, _ROWS_A_TRANSACTION):
            with self._writing() as connection:
                for person, record in part:
                    if self._exclusion(connection, person) is not None:
                        left_out += 1
                    else:
                        self._write(connection, person, record)
                        written += 1
        return written, left_out

    def get(self, person: bytes, fields: Collection[str] = FIELDS) -> ProfileRecord | None:
        """The record of one person with the wanted fields; None if there is none, or it is past its time.

        Raises:
            IntegrityError: If it was changed; the message names row and field.
            UnavailableError: If the store cannot be read.
        """
        with self._explained():
            rows = self._connection().execute(_READ, (person,)).fetchall()
        return self._record(person, rows, fields)

    def _record(self, person: bytes, rows: Sequence[Sequence[Any]], fields: Collection[str]) -> ProfileRecord | None:
        """Open the rows of `_READ`; None without rows, or once the model is retired."""
        if not rows:
            return None
        now, (retired, seal) = self._clock(), rows[0][5:7]
        if retired is not None:
            self._check_seal(seal, _row_bytes("model", rows[0][1], retired), "retirement of a model")
            if retired <= now:
                return None
        try:
            return open_record(self._keyring, _sealed(person, rows), fields, now)
        except BrokenRowError as error:
            raise self._broken(error) from None

    def people(self) -> Iterator[bytes]:
        """The HMAC of everybody with a record, in no telling order."""
        with self._explained():
            last = b""
            while rows := (
                self._connection()
                .execute("SELECT person FROM people WHERE person > ? ORDER BY person LIMIT 1000", (last,))
                .fetchall()
            ):
                yield from (row[0] for row in rows)
                last = rows[-1][0]

    # Rights

    def erase(self, person: bytes) -> Erased:
        """Remove a person's record, overwrite it, empty the write-ahead log and rebuild the file.

        The person is put on the exclusion list in the same transaction, so that nothing brings the record back.

        Raises:
            UnavailableError: If the record is gone but a reader kept the log from being emptied: run it again.
        """
        with self._writing() as connection:
            row = connection.execute("SELECT model, fields FROM people WHERE person = ?", (person,)).fetchone()
            connection.execute("DELETE FROM fields WHERE person = ?", (person,))
            connection.execute("DELETE FROM people WHERE person = ?", (person,))
            self._exclude(connection, person, Exclusion.erased)
        self.scrub()
        if row is None:
            return Erased((), None, data_key=False)
        return Erased(names_of(row[1]), row[0], data_key=True)

    def scrub(self) -> None:
        """Leave no trace of removed rows in the file or its log.

        Raises:
            UnavailableError: If a reader is in the way for too long.
        """
        with self._explained(), self._lock:
            connection = self._connection()
            self._empty_log(connection)
            connection.execute("VACUUM")
            self._empty_log(connection)

    def exclude(self, person: bytes, kind: Exclusion) -> None:
        """Put a person on the exclusion list; an erased one stays erased."""
        with self._writing() as connection:
            self._exclude(connection, person, kind)

    def include(self, person: bytes) -> bool:
        """Take a person off the exclusion list; says whether they were on it."""
        with self._writing() as connection:
            return connection.execute("DELETE FROM exclusions WHERE person = ?", (person,)).rowcount > 0

    def exclusion(self, person: bytes) -> Exclusion | None:
        """Why a person is left out; None if they are not.

        Raises:
            IntegrityError: If the entry was changed.
        """
        with self._explained():
            return self._exclusion(self._connection(), person)

    def exclusions(self) -> frozenset[bytes]:
        """Everybody who is left out, as HMACs.

        Raises:
            IntegrityError: If an entry was changed.
        """
        with self._explained():
            rows = self._connection().execute("SELECT person, kind, since, seal FROM exclusions").fetchall()
        for person, kind, since, seal in rows:
            self._check_seal(seal, _row_bytes("exclusion", person, str(kind), since), "exclusion list")
        return frozenset(row[0] for row in rows)

    # Keeping

    def retire(self, keep: str, grace_seconds: int = 0) -> None:
        """Let the profiles of all models but `keep` expire, now or after a while."""
        expires = int(self._clock()) + grace_seconds
        with self._writing() as connection:
            connection.execute("DELETE FROM models WHERE model = ?", (keep,))
            others = connection.execute("SELECT DISTINCT model FROM people WHERE model <> ?", (keep,)).fetchall()
            for (model,) in others:
                connection.execute(
                    "INSERT INTO models VALUES (?, ?, ?) ON CONFLICT DO NOTHING",  # the first date stands
                    (model, expires, self._keyring.seal(_row_bytes("model", model, expires))),
                )

    def purge(self) -> int:
        """Remove what is past its time, record by record; says how many people lost something."""
        now, touched = int(self._clock()), 0
        for person in self.people():
            with self._writing() as connection:
                rows = connection.execute(_READ, (person,)).fetchall()
                if not rows or (not any(row[9] <= now for row in rows if row[7]) and (rows[0][5] or _NEVER) > now):
                    continue
                record = self._record(person, rows, FIELDS)
                touched += 1
                if record is None or not record.present:
                    connection.execute("DELETE FROM fields WHERE person = ?", (person,))
                    connection.execute("DELETE FROM people WHERE person = ?", (person,))
                else:
                    self._write(connection, person, record, {row[7]: row[9] for row in rows})
        if touched:
            self.scrub()
        return touched

    def rewrap(self, keyring: Keyring) -> int:
        """Wrap every data key by the active key of `keyring` and use that from now on.

        Each batch is a transaction of its own: a rotation that was killed goes on where it stopped.

        Returns:
            How many were wrapped anew.
        """
        with self._lock:
            self._keyring = keyring
        done = 0
        while True:
            with self._writing() as connection:
                rows = connection.execute(
                    "SELECT person, version, model, fields, key_id, wrapped FROM people WHERE key_id <> ? LIMIT ?",
                    (keyring.active, _ROWS_A_TRANSACTION),
                ).fetchall()
                for person, *row in rows:
                    sealed = _sealed(person, [(*row, None, None, None)])
                    try:
                        fresh = keyring.wrap(unwrap_key(keyring, sealed), key_context(keyring, sealed))
                    except BrokenRowError as error:
                        raise self._broken(error) from None
                    connection.execute(
                        "UPDATE people SET key_id = ?, wrapped = ? WHERE person = ?",
                        (fresh.key_id, fresh.content, person),
                    )
            if not rows:
                return done
            done += len(rows)

    def verify(self) -> Counts:
        """Open everything.

        Raises:
            IntegrityError: Names the first row that was changed.
        """
        with self._explained():
            found = self._connection().execute("PRAGMA integrity_check(1)").fetchone()
            if found != ("ok",):
                raise IntegrityError(f"{self._path}: expected a whole store, got a damaged one; {REMEDY}")
            orphan = (
                self._connection()
                .execute("SELECT person FROM fields WHERE person NOT IN (SELECT person FROM people) LIMIT 1")
                .fetchone()
            )
        if orphan is not None:
            raise self._broken(BrokenRowError(orphan[0], "data key", "expected one for its fields, got none"))
        people = fields = 0
        wrapped_by: dict[int, int] = {}
        for person in self.people():
            with self._explained():
                rows = self._connection().execute(_READ, (person,)).fetchall()
            if rows:
                self._record(person, rows, FIELDS)
                people += 1
                fields += sum(row[7] is not None for row in rows)
                wrapped_by[rows[0][3]] = wrapped_by.get(rows[0][3], 0) + 1
        with self._explained():
            retired = self._connection().execute("SELECT model, expires, seal FROM models").fetchall()
        for model, expires, seal in retired:
            self._check_seal(seal, _row_bytes("model", model, expires), "retirement of a model")
        return Counts(people, fields, len(self.exclusions()), wrapped_by)

    # Inside

    def _write(
        self,
        connection: sqlite3.Connection,
        person: bytes,
        record: ProfileRecord,
        expires: Mapping[str, int] | None = None,
    ) -> None:
        row = connection.execute("SELECT version FROM people WHERE person = ?", (person,)).fetchone()
        now = int(self._clock())
        if expires is None:
            kept = self._retention.seconds
            expires = {name: now + kept[name] if name in kept else _NEVER for name in record.present}
        sealed = seal_record(self._keyring, person, 1 if row is None else row[0] + 1, record, expires)
        connection.execute("DELETE FROM fields WHERE person = ?", (person,))
        connection.execute(
            "INSERT OR REPLACE INTO people VALUES (?, ?, ?, ?, ?, ?)",
            (person, sealed.version, sealed.model, sealed.mask, sealed.key.key_id, sealed.key.content),
        )
        connection.executemany(
            "INSERT INTO fields VALUES (?, ?, ?, ?, ?)",
            [(person, field.name, field.version, field.expires, field.content) for field in sealed.fields],
        )

    def _exclude(self, connection: sqlite3.Connection, person: bytes, kind: Exclusion) -> None:
        if self._exclusion(connection, person) is Exclusion.erased:
            return
        since = int(self._clock())
        connection.execute(
            "INSERT OR REPLACE INTO exclusions VALUES (?, ?, ?, ?)",
            (person, str(kind), since, self._keyring.seal(_row_bytes("exclusion", person, str(kind), since))),
        )

    def _exclusion(self, connection: sqlite3.Connection, person: bytes) -> Exclusion | None:
        row = connection.execute("SELECT kind, since, seal FROM exclusions WHERE person = ?", (person,)).fetchone()
        if row is None:
            return None
        self._check_seal(row[2], _row_bytes("exclusion", person, row[0], row[1]), "exclusion list")
        return Exclusion(row[0])

    def _check_seal(self, seal: bytes, content: bytes, what: str) -> None:
        if seal != self._keyring.seal(content):
            raise IntegrityError(
                f"{self._path}: {what}: expected an entry that this store wrote, got a changed one; {REMEDY}"
            )

    def _broken(self, error: BrokenRowError) -> IntegrityError:
        return IntegrityError(f"{self._path}: {error}; {REMEDY}")

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._path, isolation_level=None, timeout=_LOCK_SECONDS, check_same_thread=False
            )
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
            for setting in ("synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF", "temp_store = MEMORY"):
                connection.execute(f"PRAGMA {setting}")
        return connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._lock:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself, on a full disk
                    connection.execute("ROLLBACK")
                raise

    def _begin(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # from the start for its owner alone, as its log will be
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = self._connection()
        refuse_newer(connection, str(self._path))
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != ("wal",):
            raise UnavailableError(f"{self._path}: expected a write-ahead log, got {mode}; put it on a local disk")
        with self._writing():
            create_or_examine(connection, self._keyring, str(self._path))

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise UnavailableError(
                f"{self._path}: removed, but a reader keeps the write-ahead log from being emptied; stop it and run "
                "the same command again"
            )

    def _explained(self) -> AbstractContextManager[None]:
        return explained(str(self._path), "profile store", remedy=REMEDY, outcome="nothing was changed")


_READ = """SELECT p.version, p.model, p.fields, p.key_id, p.wrapped, m.expires, m.seal,
    f.field, f.version, f.expires, f.sealed
FROM people p LEFT JOIN models m ON m.model = p.model LEFT JOIN fields f ON f.person = p.person
WHERE p.person = ?"""


def _sealed(person: bytes, rows: Sequence[Sequence[Any]]) -> SealedRecord:
    """Rows of `_READ` as what they hold."""
    version, model, mask, key_id, wrapped = rows[0][:5]
    fields = [SealedField(*row[7:]) for row in rows if row[7] is not None]
    return SealedRecord(person, version, model, mask, WrappedKey(key_id, wrapped), fields)


def _row_bytes(*parts: object) -> bytes:
    return repr(parts).encode("utf-8", "surrogatepass")  # keeps parts apart, and takes what a damaged row may hold


def _parts(records: Iterable[tuple[bytes, ProfileRecord]], size: int) -> Iterator[list[tuple[bytes, ProfileRecord]]]:
    part: list[tuple[bytes, ProfileRecord]] = []
    for one in records:
        part.append(one)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
