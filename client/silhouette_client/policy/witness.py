"""Who remembers how far a ledger has come, so that an older copy put back is noticed.

A ledger proves that it fits together, not that it is the newest: a copy from last week fits together as well, and would
free the budget spent since. So before each release the newest entry is shown to a witness that the operator of the
ledger's disk does not restore along with it.

`Ledger.charge` asks for the head, adds its entry and publishes the new head; `Receipt.redeem` asks again and goes on
only if the witness holds that entry. In a deployment the witnesses are the peers: `publish` hands the head to the
node's next signed round message, and `head` answers with the newest one that enough peers have signed as seen, which
their messages of the same round bring before the masked update leaves. A witness never goes back to a smaller one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Protocol

from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.files import flush_folder
from silhouette_shared.privacy.ledger import Head, check_node

_TAIL_BYTES = 4096  # holds many lines of at most 86 bytes


class Witness(Protocol):
    """Remembers the newest head of each node."""

    @property
    def name(self) -> str:
        """What a message calls it."""
        ...

    def head(self, node: str) -> Head | None:
        """The newest head of a node that is safely kept; None if it has never seen the node.

        Raises:
            UnavailableError: If it cannot be reached.
            IntegrityError: If what it keeps is damaged.
        """
        ...

    def publish(self, node: str, head: Head) -> None:
        """Keep `head`, unless a newer one of the node is kept already.

        Raises:
            UnavailableError: If it cannot be reached.
            IntegrityError: If it has seen another entry with the same number.
        """
        ...


class MemoryWitness:
    """A witness in this process: for a simulation, whose ledger is in memory as well, and for tests."""

    name = "the witness in this process"

    def __init__(self) -> None:
        self._heads: dict[str, Head] = {}
        self._lock = threading.Lock()

    def head(self, node: str) -> Head | None:
        """The newest head of a node; None if it has never seen it."""
        with self._lock:
            return self._heads.get(node)

    def publish(self, node: str, head: Head) -> None:
        """Keep `head`; errors as `Witness`."""
        with self._lock:
            if _is_news(self._heads.get(node), head, self.name):
                self._heads[node] = head


class FileWitness:
    """A witness in a folder of its own: another disk, or a share of somebody else.

    It keeps every head it was shown, a line each, so the folder also tells when the ledger moved. The folder has to be
    there: one made here would hide a disk that is not mounted.

    Args:
        folder: Not the one of the ledger, and not restored along with it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """The folder."""
        return f"the witness {self._folder}"

    def head(self, node: str) -> Head | None:
        """The newest head of a node; errors as `Witness`."""
        try:
            self._require_folder()
            with self._path(node).open("rb") as file:
                return self._newest(file.fileno())[0]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(error) from None

    def publish(self, node: str, head: Head) -> None:
        """Keep `head` on the disk, flushed when this returns; errors as `Witness`."""
        path = self._path(node)
        try:
            self._require_folder()
            made = not path.exists()
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                newest, end = self._newest(file)
                if _is_news(newest, head, self.name):
                    os.ftruncate(file, end)  # a line that a crash left half written
                    line = f"{head.sequence} {head.hash.hex()}\n".encode()
                    if os.pwrite(file, line, end) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # part of it fitted
                os.fsync(file)  # also of a line that another process wrote and may not have flushed yet
            finally:
                os.close(file)
            if made:
                flush_folder(self._folder)
        except OSError as error:
            raise self._unavailable(error) from None

    def _newest(self, file: int) -> tuple[Head | None, int]:
        """The last whole line, and where it ends."""
        size = os.fstat(file).st_size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(file, size - start, start)
        end = tail.rfind(b"\n")
        if end < 0:
            if start:
                raise self._damaged()
            return None, 0
        line = tail[:end].rpartition(b"\n")[2]
        try:
            sequence, digest = line.decode("ascii").split(" ")
            head = Head(int(sequence), bytes.fromhex(digest))
        except ValueError:
            raise self._damaged() from None
        if head.sequence < 1 or len(head.hash) != 32:
            raise self._damaged()
        return head, start + end + 1

    def _path(self, node: str) -> Path:
        check_node(node)
        return self._folder / f"{node}.heads"

    def _require_folder(self) -> None:
        if not self._folder.is_dir():
            raise UnavailableError(
                f"{self.name}: expected a folder, found none; mount its disk or make the folder, nothing is released "
                "before"
            )

    def _damaged(self) -> IntegrityError:
        return IntegrityError(
            f"{self.name}: expected a number and a hash in its last line, got something else; find out who changed "
            "it, and ask the peers for the head they saw"
        )

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"{self.name}: cannot be used ({error.strerror or error}); mend that, nothing is released before"
        )


def _is_news(kept: Head | None, shown: Head, name: str) -> bool:
    if kept is not None and kept.sequence == shown.sequence and kept.hash != shown.hash:
        raise IntegrityError(
            f"expected the entry {kept.sequence} that {name} has seen, got another: two ledgers of one node are in "
            "use; stop one and find out which is older"
        )
    return kept is None or shown.sequence > kept.sequence
