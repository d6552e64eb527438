"""Who may ask the profile service for what, and how often. No gRPC.

The file `serving.toml` maps the common names of client certificates to roles. A name that is not there may do nothing.
"""

from __future__ import annotations

import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as settings

from silhouette_client.serving.service import Role
from silhouette_shared.errors import UsageError

ACCESS_NAME = "serving.toml"
"""In a node's home."""

LOCAL = "local"
"""The name of whoever reaches the Unix socket, which its mode allows the node's user alone."""


@settings(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Grant:
    """What one caller may do.

    Args:
        roles: Of tags, vectors, write, erase, audit.
        requests_per_second: Sustained; a burst of one second's worth is allowed.
    """

    roles: frozenset[Role] = frozenset()
    requests_per_second: float = Field(default=1000.0, gt=0)


@dataclass(frozen=True)
class Access:
    """All grants by name."""

    grants: Mapping[str, Grant]

    def of(self, name: str) -> Grant | None:
        """The grant of a caller; None may do nothing."""
        return self.grants.get(name)


def read_access(path: Path) -> Access:
    """Read `serving.toml`: a table `[clients.NAME]` for each caller; `local` is the Unix socket.

    Raises:
        UsageError: If it is missing or says something unknown.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = set(document) - {"clients"}
        if unknown:
            raise UsageError(
                f"{path}: expected tables [clients.NAME] only, got {', '.join(sorted(unknown))}; remove it"
            )
        return Access(TypeAdapter(dict[str, Grant]).validate_python(document.get("clients", {})))
    except FileNotFoundError:
        raise UsageError(f"{path}: expected who may ask for what, found no file; see README.md for one") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: expected a TOML file, got {error}; mend it") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: clients.{place}: {first['msg']}; roles are {', '.join(Role)}") from None


class Quota:
    """A bucket of requests that fills with time; thread-safe.

    Args:
        per_second: How many come back in a second; also how many there are at most.
        clock: Seconds, never going back.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = per_second, clock
        self._left, self._filled = max(1.0, per_second), clock()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more request is allowed now."""
        with self._lock:
            now = self._clock()
            self._left = min(max(1.0, self._rate), self._left + (now - self._filled) * self._rate)
            self._filled = now
            if self._left < 1:
                return False
            self._left -= 1
            return True
