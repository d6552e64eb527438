"""SQLite's failures as this project's errors: what is damaged, what is in the way, and what to do next."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from silhouette_shared.errors import IntegrityError, UnavailableError

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_INCONSISTENT = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH}
_IN_THE_WAY = {
    sqlite3.SQLITE_FULL: "the disk is full; free some",
    sqlite3.SQLITE_BUSY: "another process holds the {what}; wait for it or stop it",
    sqlite3.SQLITE_LOCKED: "another process holds the {what}; wait for it or stop it",
    sqlite3.SQLITE_READONLY: "it may not be written; let the node's user write it and its folder",
    sqlite3.SQLITE_PERM: "it may not be written; let the node's user write it and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; let the node's user write it and its folder",
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
