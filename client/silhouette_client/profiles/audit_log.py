"""Who read or wrote which person, when: a text file that only grows, each line sealed over all lines before it.

A line is `number time who method outcome person seal`; the person is an HMAC, and no line says what was read. The seal
is an HMAC under the audit key over the seal before it and the line, so a line that was changed, removed, added or moved
breaks the chain there. A log cut at its end still fits together; for that its head is shown to a witness, the same as
the ledger's (`policy/witness.py`). The ledger's own chain is not used: it keeps all its entries in memory and flushes
each, and here come some hundred a second.

An entry is written before the access it names. So after a crash the log may name an access that did not happen and
never misses one that did. An entry of a read survives a kill of the process, one of a write is flushed to the disk and
survives a power cut.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from silhouette_shared.cli import is_full_disk
from silhouette_shared.closing import Closing
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError

if TYPE_CHECKING:  # the ledger brings torch and scipy along, for which no answer should wait
    from silhouette_client.policy.witness import Witness
    from silhouette_shared.privacy.ledger import Head

LOG_NAME = "profile-audit.log"
"""In a node's home."""

_SEAL = b"silhouette profile audit 1\0"
_START = bytes(32)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")
_TAIL_BYTES = 4096  # holds several lines
_WAY_OUT = "keep the file, and find out who wrote to it"


@dataclass(frozen=True)
class Access:
    """One entry.

    Args:
        who: A role or a certificate's name, or the command line's user; 1 to 128 letters, digits, `_.:@-`.
        method: What was done.
        person: HMAC, 32 bytes; empty where it was everybody, or nobody in particular.
        outcome: `granted`, or why not.
    """

    who: str
    method: str
    person: bytes
    outcome: str = "granted"

    def __post_init__(self) -> None:
        """Refuse what could look like another line."""
        for name in ("who", "method", "outcome"):
            if not _WORD.fullmatch(getattr(self, name)):
                raise UsageError(f"expected {name} of an audit entry to be 1 to 128 letters, digits or _.:@-")


@dataclass(frozen=True)
class Entry:
    """An access with its place in the log; `time` in whole milliseconds since 1970."""

    number: int
    time: int
    access: Access

    @property
    def moment(self) -> datetime:
        """The time in UTC."""
        return datetime.fromtimestamp(self.time / 1000, UTC)


class Newest(NamedTuple):
    """The newest entry: its number and its seal. A `Head` of the ledger's, without the imports of the ledger."""

    sequence: int
    hash: bytes


class AuditLog(Closing):
    """The log of one store. Safe between threads and between processes that each open it.

    Args:
        path: Of the file; made if missing.
        key: Audit key, 32 bytes.
        clock: Seconds since 1970.

    Raises:
        IntegrityError: If its last line was changed.
        UnavailableError: If it cannot be written.
    """

    def __init__(self, path: Path, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._path, self._key, self._clock = path, key, clock
        self._lock = threading.Lock()
        self._end = self._number = self._time = 0
        self._last = _START
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unavailable(error) from None
        try:
            self.record([])  # reads the end
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Flush and close."""
        os.fsync(self._file)
        os.close(self._file)

    @property
    def head(self) -> Newest | None:
        """The newest entry this object knows; None of an empty log."""
        return Newest(self._number, self._last) if self._number else None

    def record(self, accesses: Sequence[Access], *, flush: bool = False) -> None:
        """Add entries; they are in the file when this returns, and with `flush` on the disk.

        Raises:
            UnavailableError: If they cannot be written whole; then none is there, and nothing may be answered.
            IntegrityError: If what another process wrote last was changed.
        """
        with self._lock:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX)
                try:
                    self._catch_up()
                    self._append(accesses)
                finally:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
                if flush:
                    os.fsync(self._file)
            except OSError as error:
                raise self._unavailable(error) from None

    def publish(self, node: str, witness: Witness) -> Newest | None:
        """Show the newest entry to a witness, so that a log cut at its end is noticed."""
        from silhouette_shared.privacy.ledger import Head

        self.record([])
        if (head := self.head) is not None:
            witness.publish(node, Head(*head))
        return head

    def _append(self, accesses: Sequence[Access]) -> None:
        if not accesses:
            return
        number, last, lines = self._number, self._last, []
        now = max(int(self._clock() * 1000), self._time)  # a clock that was set back does not go back here
        for access in accesses:
            number += 1
            body = _body(Entry(number, now, access))
            last = _seal(self._key, last, body)
            lines.append(body + b" " + last.hex().encode() + b"\n")
        content = b"".join(lines)
        try:
            if os.pwrite(self._file, content, self._end) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # part of it fitted
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(content)
        self._number, self._last, self._time = number, last, now

    def _catch_up(self) -> None:
        """Read what another process added, and drop a line that a crash left half written: nothing was answered."""
        size = os.fstat(self._file).st_size
        if size == self._end:
            return
        if size < self._end:
            raise IntegrityError(
                f"{self._path}: expected the entry {self._number} that was there, got a shorter log; {_WAY_OUT}"
            )
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(self._file, size - start, start)
        end = tail.rfind(b"\n") + 1
        if end == 0:
            if start:
                raise self._broken(self._number + 1)
            os.ftruncate(self._file, 0)
            return
        lines = tail[:end].split(b"\n")[:-1]
        entry, seal = self._parse(lines[-1], self._number + 1)
        first = _START.hex().encode() if start == 0 else b""
        before = lines[-2].rpartition(b" ")[2] if len(lines) > 1 else first
        body = lines[-1].rpartition(b" ")[0]
        try:
            expected = _seal(self._key, bytes.fromhex(before.decode()), body)
        except ValueError:
            raise self._broken(entry.number) from None
        if not hmac.compare_digest(expected, seal):
            raise self._broken(entry.number)
        if start + end < size:
            os.ftruncate(self._file, start + end)
        self._end, self._number, self._time, self._last = start + end, entry.number, entry.time, seal

    def _parse(self, line: bytes, number: int) -> tuple[Entry, bytes]:
        return _parse(line, number, self._path)

    def _broken(self, number: int) -> IntegrityError:
        return _broken(self._path, number)

    def _unavailable(self, error: OSError) -> UnavailableError:
        reason = "the disk is full" if is_full_disk(error) else error.strerror or str(error)
        return UnavailableError(
            f"{self._path}: cannot be written ({reason}); mend that, nobody is read or written before"
        )


def read_log(path: Path, key: bytes) -> Iterator[Entry]:
    """Every entry, oldest first, each checked before it is given.

    Raises:
        IntegrityError: Names the first entry that is wrong.
        UsageError: If there is no log.
    """
    for entry, _ in _checked(path, key):
        yield entry


def verify_log(path: Path, key: bytes, seen: Head | Newest | None = None) -> Newest | None:
    """Check a whole log.

    Args:
        path: Of the file.
        key: Audit key, 32 bytes.
        seen: What a witness has seen; without it a log cut at its end passes.

    Returns:
        Its newest entry; None of an empty one.

    Raises:
        IntegrityError: Names the first entry that is wrong or missing.
        UsageError: If there is no log.
    """
    found, last = 0, _START
    fits = seen is None
    for entry, seal in _checked(path, key):
        found, last = entry.number, seal
        fits = fits or (seen is not None and (seen.sequence, seen.hash) == (found, seal))
    if seen is not None and not fits:
        what = f"a log that ends at {found}" if found < seen.sequence else "another"
        raise IntegrityError(
            f"{path}: expected the entry {seen.sequence} that the witness has seen, got {what}: it was cut or "
            f"replaced; {_WAY_OUT}"
        )
    return Newest(found, last) if found else None


def _checked(path: Path, key: bytes) -> Iterator[tuple[Entry, bytes]]:
    last, number, moment = _START, 0, 0
    try:
        with path.open("rb") as file:
            left = _size_between_writes(file.fileno())
            for line in file:
                if left <= 0:  # written since
                    return
                left -= len(line)
                number += 1
                if not line.endswith(b"\n"):
                    raise _broken(path, number)
                entry, seal = _parse(line[:-1], number, path)
                body = line[:-1].rpartition(b" ")[0]
                last = _seal(key, last, body)
                if entry.number != number or entry.time < moment or not hmac.compare_digest(last, seal):
                    raise _broken(path, number)
                moment = entry.time
                yield entry, seal
    except FileNotFoundError:
        raise UsageError(f"{path}: expected an audit log, found none; the first use of a store makes it") from None
    except OSError as error:
        raise UnavailableError(f"{path}: expected a log that can be read, got {error.strerror}") from None


def _size_between_writes(file: int) -> int:
    """Bytes of the log while nobody is in the middle of an entry."""
    fcntl.flock(file, fcntl.LOCK_SH)
    try:
        return os.fstat(file).st_size
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _parse(line: bytes, number: int, path: Path) -> tuple[Entry, bytes]:
    try:
        first, moment, who, method, outcome, person, seal = line.decode("ascii").split(" ")
        pseudonym = b"" if person == "-" else bytes.fromhex(person)
        entry = Entry(int(first), int(moment), Access(who, method, pseudonym, outcome))
        found = bytes.fromhex(seal)
    except (ValueError, UsageError):
        raise _broken(path, number) from None
    if _body(entry) + b" " + found.hex().encode() != line:  # one way to write an entry
        raise _broken(path, number)
    return entry, found


def _body(entry: Entry) -> bytes:
    access = entry.access
    return (
        f"{entry.number} {entry.time} {access.who} {access.method} {access.outcome} {access.person.hex() or '-'}"
    ).encode("ascii")


def _seal(key: bytes, last: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _SEAL + last + body, "sha256")


def _broken(path: Path, number: int) -> IntegrityError:
    return IntegrityError(
        f"{path}: entry {number}: expected an entry that continues the one before it, got a changed one, or one is "
        f"missing; {_WAY_OUT}"
    )
