"""The journal of what applications push while the service runs, and of what was recommended to whom. I/O only.

`<home>/node/people/pushed.sqlite` holds each event sealed until `absorb.py` has put it among the node's records; after
that only a keyed hash of its id stays, so that the same event is known when it is sent again. What was recommended is
sealed here for `SHOWN_DAYS` days. People and ids are keyed hashes, keys come from that of the records, and everything
goes with the person (`remove`).

Write-ahead log with `synchronous=FULL`: an event that was added survives a kill and a power cut.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from silhouette_client.ingest.folder import FOLDER
from silhouette_client.ingest.records import writing
from silhouette_client.ingest.vault import open_key
from silhouette_shared.closing import Closing
from silhouette_shared.databases import connect, explained, in_parts, make_file, marks, scrub, transaction, use_log
from silhouette_shared.errors import IntegrityError, UnavailableError

JOURNAL_NAME = "pushed.sqlite"
"""In the folder of a node's people."""

SHOWN_DAYS = 90
"""How long it is kept what was recommended to whom."""

_VERSION = 1
_APPLICATION = 0x53494C4A  # "SILJ"
_NONCE_BYTES = 12
_SETTINGS = ("synchronous = FULL", "secure_delete = ON", "temp_store = MEMORY")
_DAY_SECONDS = 86_400
_AT_ONCE = 500  # values of one statement
_REMEDY = "stop the service, keep these files, and put back a backup"
_SCHEMA = (
    """CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    id BLOB UNIQUE,
    content BLOB NOT NULL UNIQUE,
    person BLOB NOT NULL,
    applied INTEGER NOT NULL,
    sealed BLOB
) STRICT""",
    "CREATE INDEX events_of_person ON events (person)",
    "CREATE INDEX events_waiting ON events (number) WHERE sealed IS NOT NULL OR applied = 0",
    """CREATE TABLE shown (
    number INTEGER PRIMARY KEY,
    person BLOB NOT NULL,
    time INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT""",
    "CREATE INDEX shown_to_person ON shown (person)",
    "CREATE INDEX shown_when ON shown (time)",
)


@dataclass(frozen=True)
class Pushed:
    """One event in canonical words; `value` and `text` are None where there is none."""

    user: str
    item: str
    behaviour: str
    timestamp: int
    value: float | None = None
    text: str | None = None


@dataclass(frozen=True)
class Added:
    """What the journal did with an event: its number, whether it was known, and whether its profile followed."""

    number: int
    repeated: bool
    applied: bool


@dataclass(frozen=True)
class Shown:
    """What was recommended to a person: items of a model, best first, at a time in UTC seconds."""

    user: str
    model: str
    time: int
    items: tuple[str, ...]


class Journal(Closing):
    """Events pushed and recommendations answered. Use `open`; safe between threads and processes of one machine.

    Args:
        path: Of the database.
        key: Of the node's records, 32 bytes.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._people, self._ids, self._contents, encryption = (
            hashlib.blake2b(purpose, key=key, digest_size=32).digest()
            for purpose in (b"pushed people", b"pushed ids", b"pushed contents", b"pushed encryption")
        )
        self._cipher = AESGCM(encryption)
        self._lock = threading.RLock()
        self._connection = self._connect()

    @classmethod
    def open(cls, home: Path) -> Self:
        """The journal of a node, made if there is none.

        Raises:
            IntegrityError: If it or the key is damaged or missing.
            UnavailableError: If it cannot be used, or a newer version wrote it.
        """
        folder = home / FOLDER
        if not ((folder / "key").exists() or (folder / JOURNAL_NAME).exists()):  # a lost key is not made anew
            with writing(home):  # makes folder and key, where nothing was ever taken in
                pass
        return cls(folder / JOURNAL_NAME, open_key(folder / "key", may_make=False))

    @classmethod
    def open_if_there(cls, home: Path) -> Self | None:
        """The journal, or None where nothing was ever pushed."""
        return cls.open(home) if (home / FOLDER / JOURNAL_NAME).exists() else None

    def close(self) -> None:
        """Empty the write-ahead log where nobody else uses it, and close."""
        with self._lock:
            with suppress(sqlite3.Error):  # closing must not hide what went wrong before
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()

    # Events

    def add(self, events: Sequence[tuple[str, int, Pushed]]) -> list[Added]:
        """Write events in one transaction; they are on the disk when this returns.

        Args:
            events: The id that the application gave, "" for none; the identity of the row; the event. Known is one
                whose id or whose identity was added before, whatever the other says.
        """
        found = []
        with self._writing() as connection:
            for given, identity, event in events:
                content = self._hash(self._contents, identity.to_bytes(8, "big"))
                known = self._hash(self._ids, given.encode()) if given else None
                row = connection.execute(
                    "SELECT number, applied FROM events WHERE content = ? OR id = ?", (content, known)
                ).fetchone()
                if row is not None:
                    found.append(Added(row[0], repeated=True, applied=bool(row[1])))
                    continue
                person = self._hash(self._people, event.user.encode())
                cursor = connection.execute(
                    "INSERT INTO events (id, content, person, applied, sealed) VALUES (?, ?, ?, 0, ?)",
                    (known, content, person, self._seal(_event_bytes(event), b"event" + content + person)),
                )
                found.append(Added(int(cursor.lastrowid or 0), repeated=False, applied=False))
        return found

    def waiting(self) -> list[tuple[int, Pushed]]:
        """Events that are not among the node's records yet, in the order in which they came.

        Raises:
            IntegrityError: If one was changed.
        """
        with self._explained(), self._lock:
            rows = self._connection.execute(
                "SELECT number, content, person, sealed FROM events WHERE sealed IS NOT NULL ORDER BY number"
            ).fetchall()
        return [
            (number, Pushed(*self._open(sealed, b"event" + content + person)))
            for number, content, person, sealed in rows
        ]

    def without_profile(self) -> list[tuple[int, bytes]]:
        """Number and keyed hash of the person of events that no profile followed; a kill leaves them."""
        with self._explained(), self._lock:
            return self._connection.execute("SELECT number, person FROM events WHERE applied = 0").fetchall()

    def name_of(self, user: str) -> bytes:
        """The keyed hash of a person in this journal."""
        return self._hash(self._people, user.encode())

    def set_applied(self, numbers: Collection[int]) -> None:
        """Note that profiles followed these events."""
        self._each("UPDATE events SET applied = 1 WHERE number IN ({})", numbers)

    def take_back(self, events: Collection[int] = (), shown: Collection[int] = ()) -> None:
        """Remove entries as if they had never come, overwritten as in `remove`; of people erased in that moment.

        Raises:
            UnavailableError: If they are gone but a reader kept the log from being emptied.
        """
        self._each("DELETE FROM events WHERE number IN ({})", events)
        self._each("DELETE FROM shown WHERE number IN ({})", shown)
        with self._explained(), self._lock:
            scrub(self._connection, str(self._path))

    def settle(self, numbers: Collection[int]) -> None:
        """Forget the content of events that are among the records now; their ids stay known."""
        self._each("UPDATE events SET sealed = NULL WHERE number IN ({})", numbers)

    # Recommendations

    def show(self, shown: Iterable[Shown]) -> list[int]:
        """Write down what was recommended; gives the numbers of the entries."""
        rows = []
        for one in shown:
            person = self._hash(self._people, one.user.encode())
            content = json.dumps([one.user, one.model, one.time, list(one.items)], ensure_ascii=False).encode()
            rows.append((person, one.time, self._seal(content, b"shown" + person)))
        if not rows:
            return []
        with self._writing() as connection:
            added = [
                connection.execute("INSERT INTO shown (person, time, sealed) VALUES (?, ?, ?)", row) for row in rows
            ]
        return [int(one.lastrowid or 0) for one in added]

    def shown(self, user: str | None = None) -> Iterator[Shown]:
        """What was recommended to everybody or to one person, oldest first.

        Raises:
            IntegrityError: If an entry was changed.
        """
        last, person = 0, None if user is None else self.name_of(user)
        while True:
            with self._explained(), self._lock:
                rows = self._connection.execute(
                    "SELECT number, person, sealed FROM shown WHERE number > ? AND (? IS NULL OR person = ?) "
                    "ORDER BY number LIMIT 5000",
                    (last, person, person),
                ).fetchall()
            if not rows:
                return
            for number, name, sealed in rows:
                whom, model, time, items = self._open(sealed, b"shown" + name)
                yield Shown(whom, model, time, tuple(items))
                last = number

    def forget_old(self, now: int) -> None:
        """Remove what was recommended more than `SHOWN_DAYS` before `now`."""
        with self._writing() as connection:
            connection.execute("DELETE FROM shown WHERE time < ?", (now - SHOWN_DAYS * _DAY_SECONDS,))

    # Rights

    def remove(self, users: Collection[str]) -> dict[str, int]:
        """Remove all of some people, overwrite it, empty the log and rebuild the file; says what went.

        Raises:
            UnavailableError: If it is gone but a reader kept the log from being emptied: run it again.
        """
        people = [(self._hash(self._people, user.encode()),) for user in sorted(users)]
        gone = {"pushed": 0, "shown": 0}
        with self._writing() as connection:
            for table, name in (("events", "pushed"), ("shown", "shown")):
                for person in people:
                    gone[name] += connection.execute(f"DELETE FROM {table} WHERE person = ?", person).rowcount  # noqa: S608
        if any(gone.values()):
            with self._explained(), self._lock:
                scrub(self._connection, str(self._path))
        return gone

    # Inside

    def _connect(self) -> sqlite3.Connection:
        make_file(self._path)
        with self._explained():
            connection = connect(self._path, *_SETTINGS)
            try:
                use_log(connection, str(self._path))
                with transaction(connection):
                    self._make_or_examine(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _make_or_examine(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise UnavailableError(
                f"{self._path}: expected a journal of version {_VERSION}, got {version}; update Silhouette, nothing "
                "was changed"
            )
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            for statement in _SCHEMA:
                connection.execute(statement)
        schema = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        if schema != set(_SCHEMA) or connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
            raise IntegrityError(f"{self._path}: expected the tables of a journal, got others; {_REMEDY}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._lock, transaction(self._connection) as connection:
            yield connection

    def _each(self, statement: str, numbers: Collection[int]) -> None:
        if not numbers:
            return
        with self._writing() as connection:
            for part in in_parts(numbers, _AT_ONCE):
                connection.execute(statement.format(marks(part)), part)

    def _seal(self, content: bytes, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, context)

    def _open(self, sealed: bytes, context: bytes) -> list[Any]:
        try:
            found = json.loads(self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context))
        except (InvalidTag, ValueError, TypeError):
            raise IntegrityError(
                f"{self._path}: expected an entry that was written here, got another; {_REMEDY}"
            ) from None
        return list(found)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(str(self._path), "journal of pushed events", remedy=_REMEDY, outcome="nothing was taken")

    @staticmethod
    def _hash(key: bytes, content: bytes) -> bytes:
        return hashlib.blake2b(content, key=key, digest_size=32).digest()


def _event_bytes(event: Pushed) -> bytes:
    fields = [event.user, event.item, event.behaviour, event.timestamp, event.value, event.text]
    return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
