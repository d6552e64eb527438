"""What this partner has seen of the others' ledgers, and what they have seen of its own.

A ledger proves that it fits together, not that it is the newest. Every partner signs where its ledger stands beside the
keys of a round; here the newest of each is kept, over all runs, and a ledger that goes back ends the round before
anything is charged or masked. At the start of a round of five steps everybody is also told where the others have last
seen its own ledger, so that a node notices an old copy that was put back together with its own witness.
"""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.files import write_atomically
from silhouette_shared.privacy.ledger import Head
from silhouette_shared.secagg.standing import NOWHERE, Standing


class OldLedgerError(IntegrityError):
    """A ledger is an older copy, or another one, than somebody has seen."""


class OwnLedger(Protocol):
    """What is asked of this partner's own ledger."""

    @property
    def head(self) -> Head:
        """Its newest entry."""
        ...

    def check_witnessed(self, head: Head, holder: str) -> None:
        """IntegrityError unless it still holds what `holder` has seen of it."""
        ...


def standing_of(ledger: OwnLedger | None) -> Standing:
    """What a round's message says of this partner's ledger."""
    return NOWHERE if ledger is None else Standing(ledger.head.sequence, ledger.head.hash)


class PeerMemory:
    """The newest standing of every other partner's ledger that was ever shown here.

    Args:
        path: Where it is kept, so that a restart does not forget it; None keeps it in this process.

    Raises:
        IntegrityError: If the file is damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._seen = {} if path is None or not path.exists() else _read(path)
        self._lock = threading.Lock()

    @property
    def seen(self) -> Mapping[str, Standing]:
        """By partner."""
        with self._lock:
            return dict(self._seen)

    def take(self, shown: Mapping[str, Standing]) -> None:
        """Compare what the others show with what is kept, and keep what is newer; on disk when this returns.

        Raises:
            OldLedgerError: If one of them went back or is another ledger; it is named, and its entry here stays.
        """
        with self._lock:
            known = {name: self._seen.get(name, NOWHERE) for name in shown}
            newer = {name: one for name, one in shown.items() if one.entries > known[name].entries}
            if newer:
                self._seen.update(newer)
                self._write()
            for name, one in sorted(shown.items()):
                if name not in newer and one != known[name]:
                    raise OldLedgerError(self._went_back(name, known[name], one))

    def _write(self) -> None:
        if self._path is not None:
            document = {name: [one.entries, one.head.hex()] for name, one in sorted(self._seen.items())}
            write_atomically(self._path, json.dumps(document, indent=1).encode())

    def _went_back(self, name: str, known: Standing, shown: Standing) -> str:
        got = "another one" if shown.entries == known.entries else f"one that ends at {shown.entries}"
        kept = (
            ""
            if self._path is None
            else f" (a new one begun on purpose is taken once its line in {self._path} is gone)"
        )
        return (
            f"expected the ledger of {name} to hold the entry {known.entries} that was seen here, got {got}: an older "
            f"copy was put back there; nothing is sent before its operator has put back the newest{kept}"
        )


def check_told(ledger: OwnLedger, told: Mapping[str, Standing]) -> None:
    """Make sure that this partner's own ledger still holds what each of the others has seen of it.

    Args:
        ledger: This partner's.
        told: By who says so. One that lies can end a round by this, as it can in many ways, and is named.

    Raises:
        OldLedgerError: If this is an older copy, or another ledger.
    """
    for peer, standing in sorted(told.items()):
        try:
            ledger.check_witnessed(Head(standing.entries, standing.head), peer)
        except IntegrityError as error:
            raise OldLedgerError(str(error)) from error


def _read(path: Path) -> dict[str, Standing]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {name: Standing(_number(entries), bytes.fromhex(head)) for name, (entries, head) in document.items()}
    except OSError as error:
        raise UsageError(f"{path}: expected a file that can be read, got {error.strerror}; mend that") from None
    except (ValueError, TypeError, AttributeError, UsageError):
        raise IntegrityError(
            f"{path}: expected where every partner's ledger was last seen, got a damaged file; restore it, and find "
            "out who changed it"
        ) from None


def _number(value: object) -> int:
    if type(value) is not int or value < 1:
        raise TypeError("expected the number of an entry")
    return value
