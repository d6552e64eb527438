"""Databases of ours: private from the start, written whole or not at all, and a failure says what to do."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from silhouette_shared.databases import connect, connect_with_rollback, empty_log, explained, make_file, transaction
from silhouette_shared.errors import IntegrityError, UnavailableError


def a_table(path: Path, *settings: str) -> sqlite3.Connection:
    connection = connect(path, *settings)
    connection.execute("CREATE TABLE numbers (number INTEGER) STRICT")
    return connection


def test_a_file_is_its_owners_alone_and_one_that_is_there_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    before = os.umask(0)
    try:
        make_file(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"held")
    make_file(path)
    assert path.read_bytes() == b"held"


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"nowhere/new\.sqlite: expected to write here, got No such file"):
        make_file(tmp_path / "nowhere" / "new.sqlite")


def test_a_transaction_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    connection = a_table(tmp_path / "a.sqlite")
    with transaction(connection):
        connection.execute("INSERT INTO numbers VALUES (1)")

    def fails(*statements: str) -> None:
        with transaction(connection):
            for statement in statements:
                connection.execute(statement)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails("INSERT INTO numbers VALUES (2)")
    with pytest.raises(ZeroDivisionError):  # and this is what is told, although SQLite may have ended it by itself
        fails("INSERT INTO numbers VALUES (3)", "ROLLBACK")
    assert connection.execute("SELECT number FROM numbers").fetchall() == [(1,)]
    connection.close()


def test_a_database_with_a_rollback_journal_is_one_file_at_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    connection = connect_with_rollback(path, "ledger")
    with transaction(connection):
        connection.execute("CREATE TABLE numbers (number INTEGER)")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert [file.name for file in tmp_path.iterdir() if file.stat().st_size] == ["a.sqlite"]
    connection.close()


def test_what_can_have_no_rollback_journal_is_refused() -> None:
    with pytest.raises(
        UnavailableError, match=r"expected a rollback journal, got .*memory.*; put the ledger on a local"
    ):
        connect_with_rollback(Path(":memory:"), "ledger")


def test_a_reader_keeps_the_log_from_being_emptied_and_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    writing = a_table(path, "journal_mode = WAL", "busy_timeout = 0")
    reading = connect(path)
    reading.execute("BEGIN")
    reading.execute("SELECT * FROM numbers").fetchall()
    writing.execute("INSERT INTO numbers VALUES (1)")
    with pytest.raises(UnavailableError, match=r"a\.sqlite: removed, but a reader keeps the write-ahead log"):
        empty_log(writing, str(path))
    reading.execute("ROLLBACK")
    empty_log(writing, str(path))
    assert (tmp_path / "a.sqlite-wal").stat().st_size == 0
    writing.close()
    reading.close()


def test_a_damaged_database_is_an_integrity_failure_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with (
        pytest.raises(IntegrityError, match=r"expected a whole shop, got a damaged one .*; put back a copy"),
        explained(str(path), "shop", remedy="put back a copy", outcome="nothing was sold"),
    ):
        connect(path, "journal_mode = WAL")


def test_a_database_that_another_holds_is_unavailable_and_says_what_did_not_happen(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    first, second = a_table(path), connect(path, "busy_timeout = 0")
    with (
        transaction(first),
        pytest.raises(UnavailableError, match=r"another process holds the shop.*SQLITE_BUSY.*; nothing was sold"),
        explained(str(path), "shop", remedy="put back a copy", outcome="nothing was sold"),
        transaction(second),
    ):
        raise AssertionError
    first.close()
    second.close()
