"""The ledger on the disk: SQLite, append-only, flushed before a charge counts.

A charge goes: ask the witness, lock, read and check what others wrote, check duplicates and limits, write, flush, show
the new head to the witness. Then there is a `Receipt`, and nothing draws noise without one. A crash on the way may
leave a charge without a release and never a release without a charge.

The journal is a rollback journal, truncated, with `synchronous=FULL`, and not a write-ahead log. A commit costs 1.1 ms
where the log takes 0.4 ms, which no round notices, and at rest the ledger is one file: a copy of it is whole, and a
damaged byte lies where the chain looks. In a write-ahead log SQLite drops what follows a bad frame without a word.
`DELETE` would need `EXTRA`, or a power cut may bring the journal back and undo the last charge.
https://www.sqlite.org/pragma.html#pragma_synchronous

Several processes may hold a ledger open; they write one after the other. Not on a network file system.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Self

from silhouette_client.policy.budget import Budget
from silhouette_client.policy.ledger_key import make_key, read_key
from silhouette_client.policy.receipt import LEDGER_ONLY, Receipt
from silhouette_client.policy.witness import MemoryWitness, Witness
from silhouette_shared.closing import Closing
from silhouette_shared.databases import connect_with_rollback, explained, flush_names, make_file, transaction
from silhouette_shared.errors import IntegrityError, RefusedError, UnavailableError, UsageError
from silhouette_shared.privacy.ledger import (
    KEY_BYTES,
    BudgetRefusedError,
    Chain,
    Charge,
    Content,
    Entry,
    Head,
    Introduction,
    Limits,
    Opening,
    Reason,
    Record,
    check_node,
)
from silhouette_shared.privacy.mechanism import SampledGaussian

LEDGER_NAME = "ledger.sqlite"
"""Of the ledger in a node's home; its key lies beside it with the suffix `.key`."""

_LOG = logging.getLogger(__name__)

_OPENING_SECONDS = 2.0

_APPLICATION = 0x53494C4C  # "SILL": what `file` and SQLite's application_id call it

_SCHEMA = (
    """CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY,
    release BLOB UNIQUE,
    body BLOB NOT NULL,
    seal BLOB NOT NULL
) STRICT""",
    """CREATE TRIGGER entries_are_not_changed BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER entries_are_not_removed BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    # Without this one, INSERT OR REPLACE would remove a row and call no other trigger.
    """CREATE TRIGGER entries_are_added_at_the_end BEFORE INSERT ON entries
WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM entries)
    OR EXISTS (SELECT 1 FROM entries WHERE release = NEW.release)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger(Closing):
    """The record of privacy spent at one node, and the only place where a receipt is made.

    Use `open` or `in_memory`. Safe to share between threads and between processes that each open it; a forked child
    has to open it again.
    """

    def __init__(
        self,
        *,
        connection: sqlite3.Connection,
        place: str,
        node: str,
        key: bytes,
        witness: Witness,
        clock: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._place = place
        self._node = node
        self._witness = witness
        self._clock = clock
        self._chain = Chain(key)
        self._budget = Budget()
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._closed = ""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        node: str,
        limits: Limits,
        witness: Witness,
        key: Path | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> Self:
        """Open the ledger of a node, or begin it, and check all of it.

        Limits that differ from those in the ledger are written into it. A ledger begins only where its witness answers
        and has never seen this node; later it opens without one, and then charges nothing.

        Args:
            path: Of the database. Its folder has to exist.
            node: Whose ledger it is.
            limits: What the partner allows from now on.
            witness: Remembers how far the ledger has come.
            key: File of the key; by default beside the ledger. Made when the ledger begins.
            clock: For tests: the time in UTC.

        Raises:
            IntegrityError: If an entry is wrong, the key is missing or another one, an older copy was put back, or the
                witness has lost what it knew.
            UnavailableError: If the disk fails or is full, another process holds the ledger, or a new ledger's witness
                cannot be reached.
            UsageError: If the key may be read by others, or this is the ledger of another node.
        """
        check_node(node)
        key_path = path.with_suffix(".key") if key is None else key
        begins = not path.exists() or path.stat().st_size == 0
        if begins:
            _begin(path, key_path, node, witness)
        # The journal keeps its name between charges. SQLite flushes the folder as well and ignores a failure.
        make_file(path.with_name(path.name + "-journal"))
        connection = _connect(path)
        try:
            ledger = cls(
                connection=connection,
                place=str(path),
                node=node,
                key=read_key(key_path),
                witness=witness,
                clock=clock,
            )
            ledger._start(limits)
        except BaseException:
            connection.close()
            raise
        return ledger

    @classmethod
    def in_memory(cls, limits: Limits, *, node: str = "memory", clock: Callable[[], datetime] = _utc_now) -> Self:
        """A ledger that ends with the process, for a simulation: the same checks, nothing on a disk."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        ledger = cls(
            connection=connection,
            place="the ledger in memory",
            node=node,
            key=secrets.token_bytes(KEY_BYTES),
            witness=MemoryWitness(),
            clock=clock,
        )
        ledger._start(limits)
        return ledger

    def charge(self, charge: Charge) -> Receipt:
        """Write down what a release will cost; durable when this returns.

        Args:
            charge: The release; its run, round and purpose were never charged before.

        Raises:
            BudgetRefusedError: If it was charged before or does not fit a limit; the reason is typed. Nothing is
                written.
            UnavailableError: If the disk fails or is full, or no witness answers. Nothing may be released; the charge
                may have been written, so go on with a new round. After a failure of the disk the ledger has to be
                opened again.
            IntegrityError: If the ledger or its witness does not fit what was seen before.
        """
        with self._usable():
            seen = self._seen()
            with self._writing():
                self._check_seen(seen)
                self._admit(charge)
                head = self._append(charge)
            self._witness.publish(self._node, head)
        return Receipt(LEDGER_ONLY, charge=charge, head=head, confirm=lambda: self._confirm(head))

    def foresee(self, run: str, plan_digest: str, spending: Sequence[SampledGaussian], delta: float) -> None:
        """Refuse a run before its first round if the whole of it does not fit.

        Nothing is written and nothing set aside: each round is charged as it comes. What was found to fit here is not
        computed again then, which saves the tight accountant at each of the last rounds.

        Args:
            run: Its name.
            plan_digest: SHA-256 of its plan, in hex.
            spending: Everything that is still to be charged: statistics, all steps of the training, metrics.
            delta: At which the plan states its epsilon.

        Raises:
            BudgetRefusedError: With the figures.
            UsageError: If nothing is to be charged.
        """
        if not spending:
            raise UsageError("expected what a run is going to charge, got nothing; name its mechanisms")
        with self._usable(), self._writing():
            self._budget.foresee(run, plan_digest, spending, delta, self._today(), self.limits)

    def introduce(self, witness: Witness) -> None:
        """Show this ledger to a witness that has never seen its node, write that down, and use it from now on.

        For a new disk or a new peer. Whoever does this vouches that the ledger is the newest there is.

        Raises:
            RefusedError: If the witness knows the node.
            UnavailableError: If it cannot be reached, or the disk fails.
        """
        with self._usable():
            if witness.head(self._node) is not None:
                raise RefusedError(
                    f"expected a witness that has never seen {self._node}, got {witness.name}, which has; open the "
                    "ledger with it"
                )
            with self._writing():
                head = self._append(Introduction(witness=witness.name))
            witness.publish(self._node, head)
            self._witness = witness

    def check_witnessed(self, head: Head, holder: str) -> None:
        """Make sure that this ledger still holds what somebody else has seen of it.

        Raises:
            IntegrityError: If this is an older copy, or another ledger.
        """
        with self._usable():
            self._chain.check_head(head, holder)

    @property
    def entries(self) -> Sequence[Entry]:
        """All entries as far as this process has read, oldest first."""
        return self._chain.entries

    @property
    def head(self) -> Head:
        """The newest entry as far as this process has read."""
        head = self._chain.head
        assert head is not None  # noqa: S101 - `_start` reads or writes the opening
        return head

    @property
    def limits(self) -> Limits:
        """The limits that hold."""
        limits = self._chain.limits
        assert limits is not None  # noqa: S101 - `_start` writes them
        return limits

    def close(self) -> None:
        """Close the database. Receipts that were not redeemed can no longer be."""
        with self._lock:
            if not self._closed:
                self._closed = "it was closed"
                self._connection.close()

    # What follows is called with the lock held.

    def _start(self, limits: Limits) -> None:
        """Read and check everything, begin what has not begun, and compare with the witness."""
        with self._usable():
            try:
                seen = self._seen()
                reachable = True
            except UnavailableError as error:
                _LOG.warning("nothing will be charged until a witness answers: %s", error)
                seen, reachable = None, False
            with self._writing():
                if not len(self._chain):
                    self._append(Opening(node=self._node, ledger=secrets.token_hex(16)))
                if self._chain.node != self._node:
                    raise UsageError(
                        f"{self._place}: expected the ledger of {self._node}, got the one of {self._chain.node}; "
                        "give each node its own"
                    )
                if reachable:
                    # A ledger that another process began meanwhile was witnessed before its first charge: ask again.
                    self._check_seen(self._seen() if seen is None else seen)
                if self._chain.limits != limits:
                    self._append(limits)
            if reachable:
                self._witness.publish(self._node, self.head)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        with self._lock:
            if self._process != os.getpid():
                raise UnavailableError(
                    f"{self._place}: expected the process that opened it, got a forked one; open the ledger there"
                )
            if self._closed:
                raise UnavailableError(
                    f"{self._place}: expected an open ledger, got one that is not ({self._closed}); open it again"
                )
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the ledger against other processes, know all they wrote, and commit at the end.

        What was added and not committed closes the ledger: after a failed flush nobody knows what is on the disk, and a
        second flush may report success for pages that were lost. Opening it again reads what is really there.
        """
        known: int | None = None
        with _explained(self._place):
            try:
                with transaction(self._connection):
                    self._catch_up()
                    known = len(self._chain)
                    yield
            except BaseException as error:
                if known is not None and len(self._chain) != known:
                    self._closed = f"{type(error).__name__} while it was written"
                if self._closed:
                    self._connection.close()
                raise

    def _catch_up(self) -> None:
        """Read and check what is new, from the newest entry that is known."""
        known = self._chain.head
        if known is None:
            self._examine()
        rows = self._connection.execute(_SELECT, (0 if known is None else known.sequence,))
        for row in rows.fetchall():
            if known is not None and row[0] == known.sequence:
                if not isinstance(row[2], bytes) or Record(row[2], b"").hash != known.hash:
                    raise IntegrityError(
                        f"{self._place}: ledger entry {known.sequence} changed while it was open; stop the node and "
                        "run `silhouette budget verify`"
                    )
                known = None
                continue
            self._budget.add(_take(self._chain, row))
        if known is not None:
            raise IntegrityError(
                f"{self._place}: expected the entry {known.sequence} that was there before, got none; stop the node "
                "and run `silhouette budget verify`"
            )

    def _examine(self) -> None:
        """Make the tables of a ledger that begins, or check those of one that is there."""
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        pages = self._connection.execute("PRAGMA page_count").fetchone()
        if tables == (0,) and pages[0] <= 1:  # the lock already counts as a first page
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            for statement in _SCHEMA:
                self._connection.execute(statement)
        _examine(self._connection, self._place)

    def _append(self, content: Content) -> Head:
        record = self._chain.seal(content, self._clock())
        entry = self._chain.add(record)
        self._budget.add(entry)
        self._connection.execute(
            "INSERT INTO entries (sequence, release, body, seal) VALUES (?, ?, ?, ?)",
            (entry.sequence, _release(content), record.body, record.seal),
        )
        return self.head

    def _admit(self, charge: Charge) -> None:
        if self._chain.holds(charge):
            raise BudgetRefusedError(
                f"expected a release that was never charged, got round {charge.round} ({charge.purpose}) of run "
                f"{charge.run} again; go on with a new round",
                Reason.already_charged,
            )
        self._budget.check(charge, self._today(), self.limits)

    def _today(self) -> date:
        return self._chain.next_time(self._clock()).date()

    def _seen(self) -> Head | None:
        return self._witness.head(self._node)

    def _check_seen(self, seen: Head | None) -> None:
        if seen is not None:
            self._chain.check_head(seen, self._witness.name)
        elif any(isinstance(entry.content, Charge) for entry in self._chain.entries):
            raise IntegrityError(
                f"expected {self._witness.name} to have seen this ledger of {len(self._chain)} entries, got one that "
                "never has; mount the right disk, or introduce the ledger to a new witness"
            )

    def _confirm(self, head: Head) -> None:
        """Make sure that the witness holds an entry before its release is made."""
        with self._usable():
            seen = self._seen()
            if seen is None or seen.sequence < head.sequence:
                raise UnavailableError(
                    f"expected {self._witness.name} to have seen the entry {head.sequence}, got one that has not; "
                    "nothing is released before it has"
                )
            if seen.sequence > len(self._chain):
                with self._writing():  # another process has charged since: read that
                    pass
            self._chain.check_head(seen, self._witness.name)


_SELECT = "SELECT sequence, release, body, seal FROM entries WHERE sequence >= ? ORDER BY sequence"


def read_chain(path: Path, key: Path | None = None) -> Chain:
    """Read and check a whole ledger without changing it.

    Args:
        path: Of the database.
        key: File of the key; by default beside the ledger.

    Raises:
        UsageError: If there is none.
        IntegrityError: Names the first entry that is wrong and says what to do.
        UnavailableError: If it cannot be read, or is being written for too long.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: expected a ledger, found none; a node makes it when it first starts; choose its home with --home"
        )
    _await_opening(path)
    chain = Chain(read_key(path.with_suffix(".key") if key is None else key))
    with _explained(str(path)):
        connection = _connect(path)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            _examine(connection, str(path))
            for row in connection.execute(_SELECT, (0,)).fetchall():
                _take(chain, row)
        finally:
            connection.close()
    if not len(chain):
        raise IntegrityError(f"{path}: expected a ledger with an opening, got an empty one; put back the newest copy")
    return chain


def _await_opening(path: Path) -> None:
    """Give a node that begins its ledger at this moment the time to write the first entries."""
    until = time.monotonic() + _OPENING_SECONDS
    while path.stat().st_size == 0 and time.monotonic() < until:
        time.sleep(0.02)


def _begin(path: Path, key: Path, node: str, witness: Witness) -> None:
    """Make the files of a ledger that does not exist, unless somebody remembers it."""
    seen = witness.head(node)
    if seen is not None:
        raise IntegrityError(
            f"{path}: expected the ledger of {node}, of which {witness.name} has seen {seen.sequence} entries, found "
            "none; put back the newest copy of the ledger and its key"
        )
    make_key(key)
    make_file(path)
    flush_names(key)


def _connect(path: Path) -> sqlite3.Connection:
    with _explained(str(path)):
        return connect_with_rollback(path, "ledger")


def _examine(connection: sqlite3.Connection, place: str) -> None:
    """Check everything about the file that is not an entry."""
    schema = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()}
    application = connection.execute("PRAGMA application_id").fetchone()
    if schema != set(_SCHEMA) or application != (_APPLICATION,):
        raise IntegrityError(
            f"{place}: expected the tables and triggers of a ledger, got others; put back the newest copy of the ledger"
        )
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != ("ok",):
        raise IntegrityError(
            f"{place}: expected a whole database, got a damaged one; put back the newest copy of the ledger"
        )


def _take(chain: Chain, row: Sequence[object]) -> Entry:
    """Add a row to a chain; a row that says something else than its entry is refused."""
    sequence, release, body, seal = row
    if not (isinstance(body, bytes) and isinstance(seal, bytes)):
        raise IntegrityError(
            f"ledger entry {len(chain) + 1}: expected bytes, got another type; put back the newest copy of the ledger"
        )
    entry = chain.add(Record(body, seal))
    if sequence != entry.sequence or release != _release(entry.content):
        raise IntegrityError(
            f"ledger entry {entry.sequence}: expected its row to name the same release, got another; put back the "
            "newest copy of the ledger"
        )
    return entry


def _release(content: Content) -> bytes | None:
    """What may be there once only: run, round and purpose of a charge."""
    return json.dumps(content.key, ensure_ascii=False).encode() if isinstance(content, Charge) else None


def _explained(place: str) -> AbstractContextManager[None]:
    return explained(
        place,
        "ledger",
        remedy="stop the node, keep these files, and put back the newest copy of the ledger",
        outcome="nothing was released",
    )
