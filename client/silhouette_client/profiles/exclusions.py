"""The exclusion list of a node in the tables of the profile store: who is left out, in clear under a seal."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum

from silhouette_client.profiles.changes import ChangeRows
from silhouette_shared.databases import marks
from silhouette_shared.errors import RefusedError

_LIST = "exclusion list"  # in messages
_ENTRIES = "SELECT person, kind, since, seal FROM exclusions"


class Exclusion(StrEnum):
    """Why a person is left out of profiles, of imports and of training."""

    suppressed = "suppressed"
    erased = "erased"


class ExcludedError(RefusedError):
    """A profile was written for a person on the exclusion list. Exit code 3."""


class ExclusionRows(ChangeRows):
    """The part of a profile store that keeps the exclusion list."""

    def exclude(self, person: bytes, kind: Exclusion) -> None:
        """Put a person on the exclusion list; an erased one stays erased."""
        with self._writing() as connection:
            self._exclude(connection, person, kind)

    def include(self, person: bytes) -> bool:
        """Take a person off the exclusion list; says whether they were on it."""
        with self._writing() as connection:
            was = connection.execute("DELETE FROM exclusions WHERE person = ?", (person,)).rowcount > 0
            if was:
                self._note_let_in(connection)
            return was

    def exclusion(self, person: bytes) -> Exclusion | None:
        """Why a person is left out; None if they are not.

        Raises:
            IntegrityError: If the entry was changed.
        """
        with self._reading() as connection:
            return self._exclusion(connection, person)

    def exclusions(self) -> frozenset[bytes]:
        """Everybody who is left out, as HMACs.

        Raises:
            IntegrityError: If an entry was changed.
        """
        with self._reading() as connection:
            rows = connection.execute(_ENTRIES).fetchall()
        return self._checked(rows)

    def unless_excluded(self, people: Collection[bytes], act: Callable[[], None]) -> frozenset[bytes]:
        """Do something while nobody can be put on the list, but not if some of these people are; gives those.

        For what is made of people's records and kept outside of the store: an erasure comes before it or after it.

        Args:
            people: From whose records it was made.
            act: Takes no longer than a push may wait.
        """
        with self._writing() as connection:
            found = self._checked(connection.execute(_ENTRIES).fetchall()).intersection(people)
            if not found:
                act()
        return found

    # In a transaction of the store

    def _exclude(self, connection: sqlite3.Connection, person: bytes, kind: Exclusion) -> None:
        if self._exclusion(connection, person) is Exclusion.erased:
            return
        since = int(self._clock())
        connection.execute(
            "INSERT OR REPLACE INTO exclusions VALUES (?, ?, ?, ?)",
            (person, str(kind), since, self._seal("exclusion", person, str(kind), since)),
        )

    def _exclusion(self, connection: sqlite3.Connection, person: bytes) -> Exclusion | None:
        row = connection.execute("SELECT kind, since, seal FROM exclusions WHERE person = ?", (person,)).fetchone()
        if row is None:
            return None
        kind, since, seal = row
        self._check_seal(seal, _LIST, "exclusion", person, kind, since)
        return Exclusion(kind)

    def _excluded_among(self, connection: sqlite3.Connection, people: Collection[bytes]) -> frozenset[bytes]:
        found = connection.execute(f"{_ENTRIES} WHERE person IN ({marks(people)})", list(people))
        return self._checked(found.fetchall())

    def _checked(self, entries: Iterable[tuple[bytes, str, int, bytes]]) -> frozenset[bytes]:
        """The people of some entries, none of which was changed."""
        people = set()
        for person, kind, since, seal in entries:
            self._check_seal(seal, _LIST, "exclusion", person, kind, since)
            people.add(person)
        return frozenset(people)
