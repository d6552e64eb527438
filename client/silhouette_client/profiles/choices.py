"""What somebody chose at the last `profile build`, so that a node that builds and updates by itself does the same.

A file in the node's home. Where there is none, what the command takes by default holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from silhouette_client.profiles.record import FIELDS
from silhouette_shared.cli import is_full_disk
from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.files import write_atomically

CHOICES_NAME = "profile-build.json"
"""In a node's home, beside `profiles.sqlite`."""

PURPOSE = "profiling"
"""What people have to have consented to, in the words of the consent table, unless the command names another."""

RECOMMENDED = 50
"""Items kept for a person; a request may leave some of them out."""

MOST_RECOMMENDED = 1000


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of a build.

    Args:
        purpose: What people have to have consented to.
        count: Recommendations a person.
        keep: Seconds that a field is kept, by field; one that is not named stays with its model.
    """

    purpose: str = PURPOSE
    count: int = RECOMMENDED
    keep: Mapping[str, int] = field(default_factory=dict)


def write_choices(home: Path, choices: Choices) -> None:
    """Keep them for what the node does by itself; whole or not at all.

    Raises:
        UnavailableError: If the file cannot be written.
    """
    path = home / CHOICES_NAME
    try:
        write_atomically(path, json.dumps(asdict(choices), indent=1).encode() + b"\n", mode=0o600)
    except OSError as error:
        reason = "a full disk" if is_full_disk(error) else error.strerror or str(error)
        raise UnavailableError(
            f"{path}: expected to note how profiles are built, got {reason}; mend that and try again"
        ) from None


def read_choices(home: Path) -> Choices:
    """Those of the last build.

    Raises:
        IntegrityError: If the file is damaged: with other choices people would be profiled who did not agree to it.
        UnavailableError: If it cannot be read.
    """
    path = home / CHOICES_NAME
    try:
        found = Choices(**json.loads(path.read_bytes()))
        if not _possible(found):
            raise ValueError("out of range")
    except FileNotFoundError:
        return Choices()
    except OSError as error:
        raise UnavailableError(f"{path}: expected a file that can be read, got {error.strerror}; mend that") from None
    except (ValueError, TypeError, AttributeError):
        raise IntegrityError(
            f"{path}: expected the options of the last build, got something else; run `silhouette profile build` with "
            "the options wanted, which writes it anew"
        ) from None
    return found


def _possible(found: Choices) -> bool:
    return (
        isinstance(found.purpose, str)
        and isinstance(found.count, int)
        and 1 <= found.count <= MOST_RECOMMENDED
        and all(name in FIELDS and isinstance(kept, int) and kept > 0 for name, kept in found.keep.items())
    )
