"""What a supervisor says about its processes, in a file that other commands read."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from silhouette_shared.errors import UnavailableError
from silhouette_shared.files import lock_alone

FILE = "status.json"
LOCK = "supervisor.lock"
_LOOK_SECONDS = 2.0  # as long as a command that asks for the status may hold the lock to look at it


@dataclass(frozen=True)
class ServiceStatus:
    """One process as its supervisor sees it."""

    name: str
    state: str  # starting, running, waiting (for the next start), stopped
    pid: int | None
    seconds: float  # since it is in this state
    restarts: int
    reason: str  # why it last ended; empty if it never did
    memory: int  # resident bytes


@dataclass(frozen=True)
class Status:
    """All processes of one supervisor."""

    role: str
    pid: int
    services: tuple[ServiceStatus, ...]

    @property
    def healthy(self) -> bool:
        """Whether every process runs."""
        return all(service.state == "running" for service in self.services)


def write_status(folder: Path, status: Status) -> None:
    """Put the status into the folder of a supervisor."""
    partial = folder / f".{FILE}.tmp"
    partial.write_text(json.dumps(asdict(status), indent=2), encoding="utf-8")
    partial.replace(folder / FILE)


def read_status(folder: Path) -> Status | None:
    """What the supervisor of this folder last said; None if none runs there."""
    if not _is_locked(folder / LOCK):
        return None
    try:
        found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        services = tuple(ServiceStatus(**service) for service in found["services"])
        return Status(role=str(found["role"]), pid=int(found["pid"]), services=services)
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def only_one(folder: Path, role: str) -> Iterator[None]:
    """Hold the place of the one supervisor of a folder.

    Raises:
        UnavailableError: If another one holds it.
    """
    with (folder / LOCK).open("a", encoding="utf-8") as file:
        if not lock_alone(file.fileno(), _LOOK_SECONDS):
            raise UnavailableError(
                f"{folder}: expected no other `silhouette {role} start` for this home, one is running; "
                f"see `silhouette {role} status`, or end that one first"
            )
        yield


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in use now; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGESIZE")
    return 0


def document(status: Status | None) -> list[dict[str, object]]:
    """The processes for `--format json`; none if nothing runs."""
    return [] if status is None else [asdict(service) for service in status.services]


def lines(status: Status | None) -> list[str]:
    """The processes for people to read."""
    if status is None:
        return ["  not running"]
    return [
        f"  {service.state:<14}{service.name:<12}{service.memory / 1e6:>8.0f} MB  {service.seconds:>9.0f} s  "
        f"{service.restarts} restarts" + (f", last: {service.reason}" if service.reason else "")
        for service in status.services
    ]
