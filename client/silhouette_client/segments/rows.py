"""The segments of a node in the tables of the profile store: each sealed under a data key of its own."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from silhouette_client.profiles.exclusions import ExclusionRows
from silhouette_client.profiles.keys import KEY_BYTES, NONCE_BYTES, Keyring, WrappedKey
from silhouette_client.segments.segment import Segment, decode_segment, encode_segment
from silhouette_shared.databases import in_parts, marks
from silhouette_shared.errors import IntegrityError

_AT_ONCE = 1000  # values of one statement


class SegmentRows(ExclusionRows):
    """The part of a profile store that keeps segments."""

    def put_segment(self, segment: Segment) -> None:
        """Write a segment in place of one of its name.

        It was made from what was read before. Whoever lost their profile or was excluded since is not in it.

        Raises:
            SmallSegmentError: If fewer than k of its people are left.
        """
        with self._writing() as connection:
            gone = self._gone(connection, segment.members)
            if gone:
                segment = replace(segment, members=tuple(one for one in segment.members if one not in gone))
            self._put(connection, segment)

    def segments(self) -> list[Segment]:
        """Every segment, in the order of names.

        Raises:
            IntegrityError: If one was changed.
        """
        with self._reading() as connection:
            rows = connection.execute("SELECT segment, version, key_id, wrapped, sealed FROM segments").fetchall()
        return sorted((self._open(*row) for row in rows), key=lambda one: one.name)

    def segment_stamp(self) -> frozenset[bytes]:
        """Changes whenever a segment is written or removed; opens none."""
        with self._reading() as connection:
            return frozenset(wrapped for (wrapped,) in connection.execute("SELECT wrapped FROM segments"))

    def drop_segment(self, name: str) -> bool:
        """Remove a segment and its key; says whether it was there."""
        with self._writing() as connection:
            return connection.execute("DELETE FROM segments WHERE segment = ?", (self._id(name),)).rowcount > 0

    def _leave_segments(self, connection: sqlite3.Connection, people: frozenset[bytes]) -> int:
        """Take people out of every segment in a writing transaction; says out of how many. Small ones go whole."""
        left = 0
        rows = connection.execute("SELECT segment, version, key_id, wrapped, sealed FROM segments").fetchall()
        for row in rows:
            segment = self._open(*row)
            if people.isdisjoint(segment.members):
                continue
            left += 1
            rest = segment.without(people)
            if rest is None:
                connection.execute("DELETE FROM segments WHERE segment = ?", (row[0],))
            else:
                self._put(connection, rest)
        return left

    def _gone(self, connection: sqlite3.Connection, people: Sequence[bytes]) -> set[bytes]:
        """Those of some people who have no profile or are on the exclusion list."""
        gone: set[bytes] = set()
        for some in in_parts(people, _AT_ONCE):
            held = connection.execute(f"SELECT person FROM people WHERE person IN ({marks(some)})", some)  # noqa: S608
            gone |= set(some) - {person for (person,) in held} | self._excluded_among(connection, some)
        return gone

    def _rewrap_segments(self, keyring: Keyring) -> None:
        with self._writing() as connection:
            rows = connection.execute(
                "SELECT segment, version, key_id, wrapped FROM segments WHERE key_id <> ?", (keyring.active,)
            ).fetchall()
            for segment, version, key_id, wrapped in rows:
                context = self._context(segment, version, "key")
                fresh = keyring.wrap(keyring.unwrap(WrappedKey(key_id, wrapped), context), context)
                connection.execute(
                    "UPDATE segments SET key_id = ?, wrapped = ? WHERE segment = ?",
                    (fresh.key_id, fresh.content, segment),
                )

    def _put(self, connection: sqlite3.Connection, segment: Segment) -> None:
        name = self._id(segment.name)
        row = connection.execute("SELECT version FROM segments WHERE segment = ?", (name,)).fetchone()
        version = 1 if row is None else row[0] + 1
        data_key, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
        sealed = AESGCM(data_key).encrypt(nonce, encode_segment(segment), self._context(name, version, "segment"))
        wrapped = self._keyring.wrap(data_key, self._context(name, version, "key"))
        connection.execute(
            "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)",
            (name, version, wrapped.key_id, wrapped.content, nonce + sealed),
        )

    def _open(self, name: bytes, version: int, key_id: int, wrapped: bytes, sealed: bytes) -> Segment:
        try:
            key = self._keyring.unwrap(WrappedKey(key_id, wrapped), self._context(name, version, "key"))
            context = self._context(name, version, "segment")
            content = AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
            found = decode_segment(content)
        except (InvalidTag, ValueError, TypeError, IntegrityError):
            raise IntegrityError(
                f"segment {bytes(name)[:8].hex()}: expected what was written, got something else; put back a backup, "
                "or drop the segment and make it again"
            ) from None
        return found

    def _id(self, name: str) -> bytes:
        return self._keyring.seal(b"segment\0" + name.encode("utf-8"))

    def _context(self, name: bytes, version: int, what: str) -> bytes:
        return self._keyring.store + repr((name, version, what)).encode("utf-8", "surrogatepass")
