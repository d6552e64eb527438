"""The entries on the disk: SQLite, append-only, each hashed over the one before and signed.

An entry is there when `append` returns and not there when it raises, whatever happens in between: it is one row, in
one transaction, flushed. The journal of SQLite is a rollback journal, truncated, with `synchronous=FULL`, as the
ledger's is and for its reasons: at rest there is one file, and no damaged frame is dropped without a word.

Several processes may hold a registry open; they write one after the other. Not on a network file system.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from silhouette_server.registry.entries import NOTHING, Content, Entry, decode, encode, entry_hash
from silhouette_server.registry.state import Contents
from silhouette_shared.databases import connect_with_rollback, explained, make_file, transaction
from silhouette_shared.enrolment.refusals import MalformedError
from silhouette_shared.errors import IntegrityError, RefusedError, UnavailableError, UsageError
from silhouette_shared.secagg.keys import Identity, UntrustedError, verify

VERSION = 2
"""Of the tables."""

_APPLICATION = 0x53494C52  # "SILR": what `file` and SQLite's application_id call it
_LABEL = b"registry entry"

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY,
    body BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT""",
        """CREATE TRIGGER entries_are_not_changed BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END""",
        """CREATE TRIGGER entries_are_not_removed BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END""",
        # Without this one, INSERT OR REPLACE would remove a row and call no other trigger.
        """CREATE TRIGGER entries_are_added_at_the_end BEFORE INSERT ON entries
WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM entries)
BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END""",
    ),
    (
        # When a partner was last seen, and how. It is replaced all the time and proves nothing, so nobody signs it.
        """CREATE TABLE contacts (
    partner TEXT PRIMARY KEY,
    time INTEGER NOT NULL,
    state TEXT NOT NULL
) STRICT""",
    ),
)
"""What makes each version out of the one before. A step that was in a release is never changed."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


class Journal:
    """The entries of one registry and what they come to.

    Safe to share between threads, and between processes that each open it. Use `open`.
    """

    def __init__(
        self, connection: sqlite3.Connection, place: str, identity: Identity | None, keys: Sequence[bytes], clock: Clock
    ) -> None:
        self._connection = connection
        self._place = place
        self._identity = identity
        self._keys = tuple(keys)
        self._clock = clock
        self._lock = threading.RLock()
        self._hashes: list[str] = []
        self._contents = Contents()
        self._time = 0

    @classmethod
    def open(
        cls, path: Path, identity: Identity | None, former: Sequence[bytes] = (), *, clock: Clock = utc_now
    ) -> Self:
        """Open a registry, or begin one if an identity is given and there is none.

        Args:
            path: Of the database. Its folder has to exist.
            identity: Signs new entries; None to read alone.
            former: Public keys that signed before, the latest last; to read alone, the one that signs now as well.
            clock: For tests.

        Raises:
            UsageError: If there is none to read.
            IntegrityError: If it is damaged, or signed by another key.
            UnavailableError: If the disk fails or is full, another process holds it for long, or a newer version of
                Silhouette made it.
        """
        begins = not path.exists() or path.stat().st_size == 0
        if begins and identity is None:
            raise UsageError(f"{path}: expected a registry, found none; run `silhouette coordinator init` first")
        if identity is not None:
            make_file(path)
            # The journal keeps its name between entries. SQLite flushes the folder as well and ignores a failure.
            make_file(path.with_name(path.name + "-journal"))
        connection = _connect(path)
        try:
            keys = (*former, *(() if identity is None else (identity.public,)))
            journal = cls(connection, str(path), identity, keys, clock)
            with _explained(str(path)):
                journal._prepare()
            journal.contents()
        except BaseException:
            connection.close()
            raise
        return journal

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def contents(self) -> Contents:
        """What all entries come to, those of other processes included.

        Raises:
            IntegrityError: If what was read before is not there any more, or what is new does not follow.
        """
        with self._lock, _explained(self._place):
            self._connection.execute("BEGIN")
            try:
                self._catch_up()
            finally:
                self._connection.execute("ROLLBACK")
            return self._contents

    @property
    def length(self) -> int:
        """How many entries this process has read."""
        return len(self._hashes)

    def now(self) -> int:
        """The time, in UTC seconds, that an entry made now would have: never before the newest one's."""
        return max(int(self._clock().timestamp()), self._time)

    def append(self, make: Callable[[Contents], Content]) -> Contents:
        """Add one entry; it is on the disk when this returns.

        Args:
            make: Says what to add, given everything that is there; no other process writes meanwhile.

        Raises:
            TransitionError, UnknownError: If it may not follow; nothing is written.
            UnavailableError: If the disk fails or is full. The entry is there or not: look before going on.
        """
        if self._identity is None:
            raise RefusedError("expected the coordinator's signing key to change a registry, got none; open it with it")
        with self._lock, _explained(self._place):
            known = (len(self._hashes), self._contents, self._time)
            try:
                with transaction(self._connection):
                    self._catch_up()
                    known = (len(self._hashes), self._contents, self._time)
                    entry = Entry(
                        sequence=len(self._hashes) + 1,
                        time=self.now(),
                        previous=self._hashes[-1] if self._hashes else NOTHING,
                        content=make(self._contents),
                    )
                    body = encode(entry)
                    found = entry_hash(body)
                    signature = self._identity.sign(_LABEL, b"", bytes.fromhex(found))
                    entry = decode(body)  # what others will read, or none of it
                    self._keep(self._contents.after(entry), entry, found)
                    self._connection.execute(
                        "INSERT INTO entries (sequence, body, signature) VALUES (?, ?, ?)",
                        (entry.sequence, body, signature),
                    )
            except BaseException:
                # What is on the disk decides, and the next reading starts from what was read before.
                self._contents, self._time = known[1], known[2]
                del self._hashes[known[0] :]
                raise
            return self._contents

    def contact(self, partner: str, state: str) -> None:
        """Keep when a partner was last seen, and how."""
        with self._lock, _explained(self._place):
            self._connection.execute(
                "INSERT INTO contacts (partner, time, state) VALUES (?, ?, ?) "
                "ON CONFLICT (partner) DO UPDATE SET time = excluded.time, state = excluded.state",
                (partner, int(self._clock().timestamp()), state),
            )

    def contacts(self) -> dict[str, tuple[int, str]]:
        """When each partner was last seen, in UTC seconds, and how."""
        with self._lock, _explained(self._place):
            rows = self._connection.execute("SELECT partner, time, state FROM contacts ORDER BY partner").fetchall()
        return {partner: (time, state) for partner, time, state in rows}

    def faults(self) -> list[str]:
        """Everything that is wrong with the database: its pages, its tables, each entry and each signature."""
        found: list[str] = []
        try:
            with self._lock, _explained(self._place):
                for (line,) in self._connection.execute("PRAGMA integrity_check").fetchall():
                    if line != "ok":
                        found.append(f"the database is damaged: {line}")
                _check_schema(self._connection, self._place)
                rows = self._connection.execute(_SELECT, (0,)).fetchall()
        except IntegrityError as error:
            return [*found, str(error)]
        return [*found, *self._faults_in(rows)]

    def _faults_in(self, rows: Sequence[tuple[int, object, object]]) -> Iterator[str]:
        contents, previous, time = Contents(), NOTHING, 0
        for count, (sequence, body, signature) in enumerate(rows, start=1):
            try:
                entry, found = _read(sequence, body, count, previous, time)
                self._check_signature(count, found, signature)
                contents = _after(contents, entry)
            except IntegrityError as error:
                yield str(error)
                return  # what follows hangs on this one
            previous, time = found, entry.time
        if len(rows) < len(self._hashes):
            yield f"expected {len(self._hashes)} entries, found {len(rows)}"

    # What follows is called with the lock held.

    def _prepare(self) -> None:
        """Make or migrate the tables, or refuse those of a newer version."""
        version = _version(self._connection, self._place)
        if version < VERSION:
            if self._identity is None:
                raise UnavailableError(
                    f"{self._place}: expected a registry of version {VERSION}, got version {version}; run `silhouette "
                    "run list` once as the coordinator, which migrates it"
                )
            with transaction(self._connection):
                version = _version(self._connection, self._place)  # another process may have been faster
                for step in _STEPS[version:]:
                    for statement in step:
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {VERSION}")
        _check_schema(self._connection, self._place)

    def _catch_up(self) -> None:
        """Read and check what is new, from the newest entry that is known."""
        known = len(self._hashes)
        rows = self._connection.execute(_SELECT, (known,)).fetchall()
        if known:
            first = rows.pop(0) if rows else None
            if (
                first is None
                or first[0] != known
                or not isinstance(first[1], bytes)
                or (entry_hash(first[1]) != self._hashes[-1])
            ):
                raise IntegrityError(
                    f"{self._place}: entry {known} changed or went away while the registry was open; stop the "
                    "coordinator and run `silhouette model verify --all`"
                )
        before = (self._contents, self._time)
        try:
            for sequence, body, _ in rows:
                previous = self._hashes[-1] if self._hashes else NOTHING
                entry, found = _read(sequence, body, len(self._hashes) + 1, previous, self._time)
                self._keep(_after(self._contents, entry), entry, found)
            if rows:  # it is over the hash of all before
                self._check_signature(rows[-1][0], self._hashes[-1], rows[-1][2])
        except BaseException:
            self._contents, self._time = before
            del self._hashes[known:]
            raise

    def _keep(self, contents: Contents, entry: Entry, found: str) -> None:
        self._contents = contents
        self._hashes.append(found)
        self._time = entry.time

    def _check_signature(self, sequence: int, found: str, signature: object) -> None:
        for key in reversed(self._keys):
            try:
                if isinstance(signature, bytes):
                    verify(key, signature, _LABEL, b"", bytes.fromhex(found))
                    return
            except UntrustedError:
                continue
        raise IntegrityError(
            f"registry entry {sequence}: expected the coordinator's signature, got another; keep the files and put "
            "back the newest copy"
        )


_SELECT = "SELECT sequence, body, signature FROM entries WHERE sequence >= ? ORDER BY sequence"


def _read(sequence: int, body: object, expected: int, previous: str, time: int) -> tuple[Entry, str]:
    """An entry in its place, and its hash; IntegrityError if it is not the next one."""
    try:
        if not isinstance(body, bytes):
            raise MalformedError("expected bytes, got another type")
        entry = decode(body)
    except MalformedError as error:
        raise _broken(expected, str(error)) from None
    if sequence != expected or entry.sequence != expected:
        raise _broken(expected, f"got the entry {entry.sequence} in row {sequence}")
    if entry.previous != previous:
        raise _broken(expected, "it does not follow the entry before it")
    if entry.time < time:
        raise _broken(expected, "its time is before that of the entry before it")
    return entry, entry_hash(body)


def _after(contents: Contents, entry: Entry) -> Contents:
    try:
        return contents.after(entry)
    except (RefusedError, UsageError) as error:
        raise _broken(entry.sequence, f"it may not follow the ones before it: {error}") from None


def _broken(sequence: int, reason: str) -> IntegrityError:
    return IntegrityError(
        f"registry entry {sequence}: expected the next entry of this registry, got another ({reason}); keep the files "
        "and put back the newest copy"
    )


def _connect(path: Path) -> sqlite3.Connection:
    with _explained(str(path)):
        return connect_with_rollback(path, "registry")


def _version(connection: sqlite3.Connection, place: str) -> int:
    """The version of the tables, 0 of an empty database."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and not version and not application:
        return 0
    if application != _APPLICATION or version < 1:
        raise IntegrityError(
            f"{place}: expected a registry, got another database or a damaged one; put back the newest copy"
        )
    if version > VERSION:
        raise UnavailableError(
            f"{place}: expected a registry of version {VERSION} or before, got version {version}, which a newer "
            "Silhouette made; nothing was changed: install that version"
        )
    return int(version)


def _check_schema(connection: sqlite3.Connection, place: str) -> None:
    found = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()}
    if found != {statement for step in _STEPS for statement in step}:
        raise IntegrityError(
            f"{place}: expected the tables and triggers of a registry, got others; put back the newest copy"
        )


def _explained(place: str) -> AbstractContextManager[None]:
    return explained(
        place,
        "registry",
        remedy="keep these files, and put back the newest copy of the registry",
        outcome="look with `silhouette run list` before going on",
    )
