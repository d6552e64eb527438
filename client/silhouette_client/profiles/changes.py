"""How a build knows what others wrote while it worked: every writing transaction of a profile store has a number.

Each record carries the number of the transaction that wrote it as its version. A build notes the newest number before
it reads people's events. Whoever has a higher one by then was written since, from events that are at least as new, and
is left as they are. Whoever was let in again since may have been erased in between, so that what was read of them must
not be written; one number for all of them says so, since that is rare.
"""

from __future__ import annotations

import sqlite3

from silhouette_client.profiles.database import ProfileDatabase


class ChangeRows(ProfileDatabase):
    """The part of a profile store that numbers what is written."""

    def newest_change(self) -> int:
        """Number of the newest writing transaction; what is committed after this call has a higher one."""
        with self._reading() as connection:
            return int(connection.execute("SELECT last FROM changes").fetchone()[0])

    def let_in_since(self, change: int) -> bool:
        """Whether somebody left the exclusion list after a change."""
        with self._reading() as connection:
            return self._let_in_since(connection, change)

    # In a transaction of the store

    def _next_change(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute("UPDATE changes SET last = last + 1 RETURNING last").fetchone()[0])

    def _note_let_in(self, connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE changes SET let_in = ?", (self._next_change(connection),))

    def _let_in_since(self, connection: sqlite3.Connection, change: int) -> bool:
        return int(connection.execute("SELECT let_in FROM changes").fetchone()[0]) > change
