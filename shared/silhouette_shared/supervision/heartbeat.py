"""A file that a process writes again and again, so that whoever watches it sees that it does not hang.

The time in it is the machine's monotonic clock, which all processes share and which nobody sets back.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "SILHOUETTE_HEARTBEAT"
"""Environment variable with the path of the file; a process without it is not watched."""

_USUAL_PATIENCE = 30.0
_PULSE_SECONDS = 5.0
_WORKING_PATIENCE = 120.0  # a library may keep all threads waiting for a while


@dataclass(frozen=True)
class Beat:
    """The last sign of life."""

    at: float  # time.monotonic()
    patience: float  # seconds until which the next one is expected

    def overdue(self, now: float) -> float:
        """Seconds by which the next sign is late; 0 or less while it is not."""
        return now - self.at - self.patience


class Heart:
    """Writes signs of life.

    Args:
        path: Of the file; None writes nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._turn = threading.Lock()

    @classmethod
    def from_environment(cls) -> "Heart":
        """As the supervisor that started this process asks for."""
        path = os.environ.get(VARIABLE)
        return cls(Path(path) if path else None)

    def beat(self, patience: float = _USUAL_PATIENCE) -> None:
        """Say that this process lives, and how many seconds it may now be silent."""
        if self._path is None:
            return
        with self._turn:
            partial = self._path.with_name(f".{self._path.name}.tmp")
            partial.write_text(json.dumps({"at": time.monotonic(), "patience": patience}), encoding="utf-8")
            partial.replace(self._path)

    @contextmanager
    def beating(self, longest: float) -> Iterator[None]:
        """Signs of life from a thread of its own while the caller works on something.

        A process that is stopped as a whole is noticed within minutes, one whose work never ends after `longest`.

        Args:
            longest: Seconds that the work may take.
        """
        done = threading.Event()

        def pulse() -> None:
            until = time.monotonic() + longest
            while time.monotonic() < until:
                self.beat(_WORKING_PATIENCE)
                if done.wait(_PULSE_SECONDS):
                    return

        thread = threading.Thread(target=pulse, daemon=True, name="pulse")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.beat()


def read_beat(path: Path) -> Beat | None:
    """The last sign of life, or None if there is none (yet)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Beat(float(found["at"]), float(found["patience"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
