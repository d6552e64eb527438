"""The tables of the profile store, and what every opening checks of them."""

from __future__ import annotations

import sqlite3

from silhouette_client.profiles.keys import Keyring
from silhouette_shared.errors import IntegrityError, UnavailableError

SCHEMA_VERSION = 3

REMEDY = "stop the service, keep these files, and put back a backup or build the profiles again"

_APPLICATION = 0x53494C50  # "SILP": what `file` and SQLite's application_id call it

_FIRST = (
    """CREATE TABLE people (
    person BLOB PRIMARY KEY,
    version INTEGER NOT NULL,
    model TEXT NOT NULL,
    fields INTEGER NOT NULL,
    key_id INTEGER NOT NULL,
    wrapped BLOB NOT NULL
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE fields (
    person BLOB NOT NULL,
    field TEXT NOT NULL,
    version INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (person, field)
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE exclusions (
    person BLOB PRIMARY KEY,
    kind TEXT NOT NULL,
    since INTEGER NOT NULL,
    seal BLOB NOT NULL
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE models (
    model TEXT PRIMARY KEY,
    expires INTEGER NOT NULL,
    seal BLOB NOT NULL
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE identity (
    store BLOB PRIMARY KEY,
    seal BLOB NOT NULL
) STRICT, WITHOUT ROWID""",
)

_SECOND = (
    """CREATE TABLE basis (
    person BLOB PRIMARY KEY,
    seal BLOB NOT NULL
) STRICT, WITHOUT ROWID""",
    """CREATE TABLE segments (
    segment BLOB PRIMARY KEY,
    version INTEGER NOT NULL,
    key_id INTEGER NOT NULL,
    wrapped BLOB NOT NULL,
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID""",
)
"""New in version 2: from what a record was made, and the segments."""

_THIRD = (
    """CREATE TABLE changes (
    last INTEGER NOT NULL,
    let_in INTEGER NOT NULL
) STRICT""",
)
"""New in version 3: one row, the numbers of the newest writing transaction and of the last that let somebody in."""

_SCHEMA = (*_FIRST, *_SECOND, *_THIRD)

_BEGIN_CHANGES = "INSERT INTO changes SELECT coalesce(max(version), 0), 0 FROM people"


def refuse_newer(connection: sqlite3.Connection, place: str) -> None:
    """Refuse the store of a newer version before anything is changed.

    Raises:
        UnavailableError: If it is newer.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise UnavailableError(
            f"{place}: expected a store of version {SCHEMA_VERSION} or older, got {version}; update Silhouette, "
            "nothing was changed"
        )


def create_or_examine(connection: sqlite3.Connection, keyring: Keyring, place: str) -> None:
    """Make the tables of an empty store, add what an older one lacks, or check; inside a writing transaction.

    Raises:
        IntegrityError: If these are other tables, or other keys.
    """
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO identity VALUES (?, ?)", (keyring.store, keyring.seal(b"identity")))
        connection.execute(_BEGIN_CHANGES)
    schema = _tables(connection)
    older = {1: (set(_FIRST), (*_SECOND, *_THIRD)), 2: ({*_FIRST, *_SECOND}, _THIRD)}
    had, lacking = older.get(connection.execute("PRAGMA user_version").fetchone()[0], (set[str](), ()))
    if lacking and schema == had:
        for statement in lacking:
            connection.execute(statement)
        connection.execute(_BEGIN_CHANGES)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        schema = _tables(connection)
    application = connection.execute("PRAGMA application_id").fetchone()
    version = connection.execute("PRAGMA user_version").fetchone()
    if schema != set(_SCHEMA) or application != (_APPLICATION,) or version != (SCHEMA_VERSION,):
        raise IntegrityError(f"{place}: expected the tables of a profile store, got others; {REMEDY}")
    rows = connection.execute("SELECT store, seal FROM identity").fetchall()
    if rows != [(keyring.store, keyring.seal(b"identity"))]:
        raise IntegrityError(
            f"{place}: expected the store of these keys, got another or a changed one; put back the key file that "
            "belongs to it"
        )


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
