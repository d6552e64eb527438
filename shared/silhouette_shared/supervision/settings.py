"""`processes.toml`: where the processes of one home listen. Without the file the defaults hold."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from silhouette_shared.errors import UsageError

SETTINGS = "processes.toml"


def read_settings(path: Path, known: Mapping[str, type]) -> dict[str, object]:
    """What is set in a file; nothing if there is none.

    Args:
        path: Of the file.
        known: Type of every setting there may be.

    Raises:
        UsageError: If the file does not parse, or has another setting or type.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: expected settings in TOML, got {' '.join(str(error).split())}; correct it") from None
    for name, value in found.items():
        if name not in known:
            raise UsageError(f"{path}: {name}: expected {' or '.join(known)}, got another setting; remove it")
        if type(value) is not known[name]:
            raise UsageError(f"{path}: {name}: expected {known[name].__name__}, got {type(value).__name__}; correct it")
    return found


def as_port(path: Path, name: str, value: object) -> int:
    """A TCP port; UsageError if it cannot be one."""
    if not isinstance(value, int) or not 1 <= value <= 65535:
        raise UsageError(f"{path}: {name}: expected a port from 1 to 65535, got {value}; change it")
    return value
