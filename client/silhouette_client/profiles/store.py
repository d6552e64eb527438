"""The profiles of a partner's people on the disk: SQLite, each person under a data key of their own.

A person appears as an HMAC. Each field of a record is sealed with AES-256-GCM under the person's data key, the data key
under a key-encryption key, and every column that says something about them (store, person, field, row version, model,
expiry) is in the associated data: a row that was changed, swapped or moved does not open. Every write of a record makes
a new data key, so the old record is shredded and no nonce is used twice.

The file itself, the exclusion list and the segments stand in `database`, `exclusions` and `segments.rows`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from silhouette_client.profiles.exclusions import ExcludedError, Exclusion
from silhouette_client.profiles.keys import Keyring, WrappedKey
from silhouette_client.profiles.record import FIELDS, ProfileRecord
from silhouette_client.profiles.schema import REMEDY
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
from silhouette_client.segments.rows import SegmentRows
from silhouette_shared.databases import in_parts, marks
from silhouette_shared.errors import IntegrityError, UsageError

STORE_NAME = "profiles.sqlite"
"""In a node's home."""

_T = TypeVar("_T")

_MAKER_BYTES = 16  # the last of a basis: which model with which local parts
_NEVER = 2**62  # an expiry that does not come
ROWS_A_TRANSACTION = 1000  # a tenth of a second: a pushed event waits for no longer


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
    segments: int = 0  # out of how many the person was taken


@dataclass(frozen=True)
class Counts:
    """What a whole store holds."""

    people: int
    fields: int
    exclusions: int
    wrapped_by: Mapping[int, int]  # people by key-encryption key


class ProfileStore(SegmentRows):
    """The encrypted profiles of one node. Use `open`; safe between threads and processes on one machine.

    Args:
        path: Of the database.
        keyring: Opened keys.
        retention: Applied to what is written from now on.
        clock: Seconds since 1970.
    """

    def __init__(self, path: Path, keyring: Keyring, retention: Retention, clock: Callable[[], float]) -> None:
        super().__init__(path, keyring, clock)
        self._retention = retention

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
        store._begin()
        return store

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
            _revive(connection, {record.model})
            self._write(connection, person, record)

    def put_many(
        self,
        records: Iterable[tuple[bytes, ProfileRecord]],
        sources: Mapping[bytes, bytes] | None = None,
        parts: bytes = b"",
        since: int | None = None,
    ) -> tuple[int, int]:
        """Write many records, a thousand to a transaction; people on the exclusion list are left out.

        A model that was retired is so no more once it made one of them.

        Fastest where people come in the order of their HMACs: rows then go to the end of what is there.

        Args:
            records: People and what to write of them; of a person who comes twice the last one counts.
            sources: For `current`: from what each record was made. Whoever is not in it has none.
            parts: For `current`: names the local parts of the model that made them.
            since: A `newest_change` from before the sources were read: people who were written since are left as they
                are, and once somebody was let in since, everybody is.

        Returns:
            How many people were written and how many left out.
        """
        written = left_out = 0
        for part in in_parts(records, ROWS_A_TRANSACTION):
            with self._writing() as connection:
                wanted = dict(sorted(dict(part).items()))
                kept_out = self._excluded_among(connection, wanted)
                if since is not None:
                    kept_out |= self._changed_among(connection, wanted, since)
                for person in kept_out:
                    del wanted[person]
                _revive(connection, {record.model for record in wanted.values()})
                self._write_many(connection, wanted, sources or {}, parts=parts)
            left_out += len(kept_out)
            written += len(wanted)
        return written, left_out

    def current(self, model: str, sources: Mapping[bytes, bytes], parts: bytes = b"") -> set[bytes]:
        """Those whose record was made by this model from this source, so that nothing has to be built for them.

        Args:
            model: As in the records.
            sources: By person: bytes that change with whatever the profile is made from.
            parts: Names the local parts of the model.
        """
        found = set()
        for part in in_parts(sources.items(), ROWS_A_TRANSACTION):
            people = [person for person, _ in part]
            with self._reading() as connection:
                rows = connection.execute(f"{_BASES} ({marks(people)})", people)
                for person, version, made_by, seal in rows:
                    if made_by == model and seal == self._basis(person, version, model, sources[person], parts):
                        found.add(person)
        return found

    def made_otherwise(self, since: int, model: str, parts: bytes = b"") -> bool:
        """Whether somebody's record was written after a change, and not by this model with these local parts."""
        with self._reading() as connection:
            found = connection.execute(_MADE_OTHERWISE, (since, model, self._maker(model, parts))).fetchone()
        return found is not None

    def _basis(self, person: bytes, version: int, model: str, source: bytes, parts: bytes) -> bytes:
        return self._seal("basis", person, version, model, source) + self._maker(model, parts)

    def _maker(self, model: str, parts: bytes) -> bytes:
        return self._seal("maker", model, parts)[:_MAKER_BYTES]

    def _changed_among(self, connection: sqlite3.Connection, people: Collection[bytes], since: int) -> frozenset[bytes]:
        """Those of some people of whom what was read before a change must not be written; in a transaction."""
        if self._let_in_since(connection, since):
            return frozenset(people)
        rows = connection.execute(f"{_VERSIONS} ({marks(people)}) AND version > ?", (*people, since))
        return frozenset(person for person, _ in rows)

    def get(self, person: bytes, fields: Collection[str] = FIELDS) -> ProfileRecord | None:
        """The record of one person with the wanted fields; None if there is none, or it is past its time.

        Raises:
            IntegrityError: If it was changed; the message names row and field.
            UnavailableError: If the store cannot be read.
        """
        with self._reading() as connection:
            rows = connection.execute(_READ, (person,)).fetchall()
        return self._record(person, rows, fields)

    def _record(self, person: bytes, rows: Sequence[Sequence[Any]], fields: Collection[str]) -> ProfileRecord | None:
        """Open the rows of `_READ`; None without rows, or once the model is retired."""
        if not rows:
            return None
        now, (retired, seal) = self._clock(), rows[0][5:7]
        if retired is not None:
            self._check_seal(seal, "retirement of a model", "model", rows[0][1], retired)
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
                self._connection()  # of the thread that goes on with it
                .execute("SELECT person FROM people WHERE person > ? ORDER BY person LIMIT 1000", (last,))
                .fetchall()
            ):
                yield from (row[0] for row in rows)
                last = rows[-1][0]

    def everybody(self, fields: Collection[str]) -> Iterator[tuple[bytes, ProfileRecord]]:
        """Person and record of everybody who has one and is not on the exclusion list; errors as `get`."""
        left_out = self.exclusions()
        for part in in_parts(self.people(), ROWS_A_TRANSACTION):
            for person in part:
                record = None if person in left_out else self.get(person, fields)
                if record is not None:
                    yield person, record

    # Rights

    def erase(self, person: bytes) -> Erased:
        """Remove a person's record, overwrite it, empty the write-ahead log and rebuild the file.

        The person is put on the exclusion list in the same transaction, so that nothing brings the record back.

        Raises:
            UnavailableError: If the record is gone but a reader kept the log from being emptied: run it again.
        """
        with self._writing() as connection:
            row = connection.execute("SELECT model, fields FROM people WHERE person = ?", (person,)).fetchone()
            _remove(connection, [person])
            segments = self._leave_segments(connection, frozenset([person]))
            self._exclude(connection, person, Exclusion.erased)
        self.scrub()
        if row is None:
            return Erased((), None, data_key=False, segments=segments)
        return Erased(names_of(row[1]), row[0], data_key=True, segments=segments)

    def keep_only(self, people: Collection[bytes], since: int) -> int:
        """Remove the records of everybody else but of those on the exclusion list; says how many had one.

        Args:
            people: Who stays.
            since: A `newest_change` from before it was read who stays: whoever was written since stays as well, and
                once somebody was let in since, everybody does.
        """
        gone = 0
        others = (person for person in self.people() if person not in people)
        for part in in_parts(others, 100 * ROWS_A_TRANSACTION):  # every part looks through all segments
            with self._writing() as connection:
                if self._let_in_since(connection, since):
                    break
                old = [
                    person
                    for some in in_parts(part, ROWS_A_TRANSACTION)
                    for person in set(some)
                    - self._excluded_among(connection, some)
                    - self._changed_among(connection, some, since)
                ]
                gone += _remove(connection, old)
                self._leave_segments(connection, frozenset(old))
        if gone:
            self.scrub()
        return gone

    def keep_model(self, model: str, since: int) -> int:
        """Remove the records of other models that were not written after a change; says how many there were."""
        gone = 0
        while True:
            with self._writing() as connection:
                rows = connection.execute(
                    "SELECT person FROM people WHERE model <> ? AND version <= ? LIMIT ?",
                    (model, since, ROWS_A_TRANSACTION),
                ).fetchall()
                gone += _remove(connection, [person for (person,) in rows])
            if not rows:
                break
        if gone:
            self.scrub()
        return gone

    # Keeping

    def revive(self, model: str) -> None:
        """Let the profiles of a model that was retired count again."""
        with self._writing() as connection:
            _revive(connection, {model})

    def retire(self, keep: str, grace_seconds: int = 0) -> None:
        """Let the profiles of all models but `keep` expire, now or after a while."""
        expires = int(self._clock()) + grace_seconds
        with self._writing() as connection:
            _revive(connection, {keep})
            others = connection.execute("SELECT DISTINCT model FROM people WHERE model <> ?", (keep,)).fetchall()
            for (model,) in others:
                connection.execute(
                    "INSERT INTO models VALUES (?, ?, ?) ON CONFLICT DO NOTHING",  # the first date stands
                    (model, expires, self._seal("model", model, expires)),
                )

    def purge(self) -> int:
        """Remove what is past its time, key and all; says how many people lost something."""
        now, touched = int(self._clock()), 0
        with self._reading() as connection:
            late = connection.execute("SELECT DISTINCT person FROM fields WHERE expires <= ?", (now,)).fetchall()
        for model, expires in self._retired():
            if expires <= now:
                touched += self._remove_made_by(model)
        for (person,) in late:
            with self._writing() as connection:
                rows = connection.execute(_READ, (person,)).fetchall()
                record = self._record(person, rows, FIELDS)
                if record is None or not record.present:
                    _remove(connection, [person])
                else:
                    self._write(connection, person, record, {row[7]: row[9] for row in rows})
                touched += bool(rows)
        if touched:
            self.scrub()
        return touched

    def _retired(self) -> list[tuple[str, int]]:
        """The models whose profiles expire, and when."""
        with self._reading() as connection:
            rows = connection.execute("SELECT model, expires, seal FROM models").fetchall()
        for model, expires, seal in rows:
            self._check_seal(seal, "retirement of a model", "model", model, expires)
        return [(model, expires) for model, expires, _ in rows]

    def _remove_made_by(self, model: str) -> int:
        gone = 0
        while True:
            with self._writing() as connection:
                rows = connection.execute(
                    "SELECT person FROM people JOIN models USING (model) WHERE model = ? LIMIT ?",  # if it still is
                    (model, ROWS_A_TRANSACTION),
                ).fetchall()
                gone += _remove(connection, [person for (person,) in rows])
            if not rows:
                return gone

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
                    (keyring.active, ROWS_A_TRANSACTION),
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
                self._rewrap_segments(keyring)
                return done
            done += len(rows)

    def verify(self) -> Counts:
        """Open everything.

        Raises:
            IntegrityError: Names the first row that was changed.
        """
        self._check_whole()
        with self._reading() as connection:
            orphan = connection.execute(
                "SELECT person FROM fields WHERE person NOT IN (SELECT person FROM people) LIMIT 1"
            ).fetchone()
        if orphan is not None:
            raise self._broken(BrokenRowError(orphan[0], "data key", "expected one for its fields, got none"))
        people = fields = 0
        wrapped_by: dict[int, int] = {}
        for person in self.people():
            with self._reading() as connection:
                rows = connection.execute(_READ, (person,)).fetchall()
            if rows:
                self._record(person, rows, FIELDS)
                people += 1
                fields += sum(row[7] is not None for row in rows)
                wrapped_by[rows[0][3]] = wrapped_by.get(rows[0][3], 0) + 1
        self._retired()
        self.segments()
        return Counts(people, fields, len(self.exclusions()), wrapped_by)

    # Inside

    def _write(
        self,
        connection: sqlite3.Connection,
        person: bytes,
        record: ProfileRecord,
        expires: Mapping[str, int] | None = None,
    ) -> None:
        self._write_many(connection, {person: record}, {}, expires=expires)

    def _write_many(
        self,
        connection: sqlite3.Connection,
        records: Mapping[bytes, ProfileRecord],
        sources: Mapping[bytes, bytes],
        *,
        parts: bytes = b"",
        expires: Mapping[str, int] | None = None,
    ) -> None:
        """Each under a new data key, all by a few statements; in the order of HMACs, as the tables have them."""
        people = list(records)
        versions = dict(connection.execute(f"{_VERSIONS} ({marks(people)})", people).fetchall())
        version = self._next_change(connection)
        now, kept = int(self._clock()), self._retention.seconds
        ends = {name: now + kept[name] if name in kept else _NEVER for name in FIELDS}
        sealed = [
            seal_record(self._keyring, person, version, record, expires or ends) for person, record in records.items()
        ]
        known = [(person,) for person in versions]
        connection.executemany("DELETE FROM fields WHERE person = ?", known)
        connection.executemany("DELETE FROM basis WHERE person = ?", known)
        connection.executemany(
            "INSERT OR REPLACE INTO people VALUES (?, ?, ?, ?, ?, ?)",
            [(one.person, one.version, one.model, one.mask, one.key.key_id, one.key.content) for one in sealed],
        )
        connection.executemany(
            "INSERT INTO fields VALUES (?, ?, ?, ?, ?)",
            [
                (one.person, field.name, field.version, field.expires, field.content)
                for one in sealed
                for field in one.fields
            ],
        )
        connection.executemany(
            "INSERT INTO basis VALUES (?, ?)",
            [
                (one.person, self._basis(one.person, one.version, one.model, sources[one.person], parts))
                for one in sealed
                if one.person in sources
            ],
        )

    def _broken(self, error: BrokenRowError) -> IntegrityError:
        return IntegrityError(f"{self._path}: {error}; {REMEDY}")


# Followed by as many marks as there are people.
_VERSIONS = "SELECT person, version FROM people WHERE person IN"
_BASES = "SELECT person, version, model, seal FROM people JOIN basis USING (person) WHERE person IN"
# A record without a basis was written by nobody who says from what; then the model alone counts.
_MADE_OTHERWISE = """SELECT 1 FROM people LEFT JOIN basis USING (person)
WHERE version > ? AND (model <> ? OR substr(seal, -length(?3)) <> ?3) LIMIT 1"""

_READ = """SELECT p.version, p.model, p.fields, p.key_id, p.wrapped, m.expires, m.seal,
    f.field, f.version, f.expires, f.sealed
FROM people p LEFT JOIN models m ON m.model = p.model LEFT JOIN fields f ON f.person = p.person
WHERE p.person = ?"""


def _sealed(person: bytes, rows: Sequence[Sequence[Any]]) -> SealedRecord:
    """Rows of `_READ` as what they hold."""
    version, model, mask, key_id, wrapped = rows[0][:5]
    fields = [SealedField(*row[7:]) for row in rows if row[7] is not None]
    return SealedRecord(person, version, model, mask, WrappedKey(key_id, wrapped), fields)


def _revive(connection: sqlite3.Connection, models: Collection[str]) -> None:
    connection.executemany("DELETE FROM models WHERE model = ?", [(model,) for model in models])


def _remove(connection: sqlite3.Connection, people: Sequence[bytes]) -> int:
    one_each = [(person,) for person in people]
    connection.executemany("DELETE FROM fields WHERE person = ?", one_each)
    connection.executemany("DELETE FROM basis WHERE person = ?", one_each)
    return connection.executemany("DELETE FROM people WHERE person = ?", one_each).rowcount
