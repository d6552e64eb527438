"""Databases of ours: private from the start, written whole or not at all, and a failure says what to do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from silhouette_shared.databases import (
    connect,
    connect_with_rollback,
    empty_log,
    explained,
    make_file,
    scrub,
    transaction,
    use_log,
)
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


CHECKPOINT_LOCK = 121
"""Byte of the `-shm` file that a connection locks while it checkpoints (SQLite, "WAL-mode File Format", 2.3)."""

HOLDING = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def checkpointing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a checkpoint, until its input ends."""
    command = [sys.executable, "-c", HOLDING, f"{path}-shm", str(CHECKPOINT_LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.stdin.close()


def test_a_log_is_emptied_once_another_process_has_brought_its_own_in(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    writing = a_table(path, "journal_mode = WAL")
    writing.execute("INSERT INTO numbers VALUES (1)")
    with checkpointing(path) as other:
        assert other.stdin is not None
        assert writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 1, "SQLite itself does not wait"
        threading.Timer(0.5, other.stdin.close).start()
        empty_log(writing, str(path))
    assert (tmp_path / "a.sqlite-wal").stat().st_size == 0
    writing.execute("PRAGMA busy_timeout = 100")
    with checkpointing(path), pytest.raises(UnavailableError, match="removed, but a reader keeps the write-ahead log"):
        empty_log(writing, str(path))
    writing.close()


def test_a_database_is_taken_into_use_once_another_process_has_made_it(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    making, second = connect(path), connect(path)
    making.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        second.execute("PRAGMA journal_mode = WAL")  # SQLite itself does not wait
    threading.Timer(0.5, making.execute, ["COMMIT"]).start()
    use_log(second, str(path))
    assert second.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    making.close()
    second.close()
    blocked, holding = connect(tmp_path / "b.sqlite", "busy_timeout = 100"), connect(tmp_path / "b.sqlite")
    holding.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_log(blocked, "b")
    blocked.close()
    holding.close()


def test_what_can_have_no_write_ahead_log_is_refused() -> None:
    connection = connect(Path(":memory:"))
    with pytest.raises(UnavailableError, match=r"shop: expected a write-ahead log, got .*memory.*; put it on a local"):
        use_log(connection, "shop")
    connection.close()


def test_what_was_removed_is_in_neither_file_after_a_scrub(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    connection = connect(path)
    use_log(connection, str(path))
    connection.execute("CREATE TABLE words (word TEXT) STRICT")
    connection.execute("INSERT INTO words VALUES ('planted')")
    connection.execute("DELETE FROM words")
    files = [path, tmp_path / "a.sqlite-wal"]
    assert any(b"planted" in file.read_bytes() for file in files), "the search finds what is there"
    scrub(connection, str(path))
    assert not any(b"planted" in file.read_bytes() for file in files)
    connection.close()


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
