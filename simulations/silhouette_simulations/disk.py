"""Room on the disk, asked for before anything is written."""

import os
import shutil
from pathlib import Path

from silhouette_shared.errors import UsageError


def require_space(path: Path, needed_bytes: int, *, option: str) -> None:
    """Refuse to start what cannot be finished.

    Args:
        path: The folder that will be written to; need not exist yet.
        needed_bytes: Estimate of what is written.
        option: The option that names another folder, for the message.

    Raises:
        UsageError: If the disk has less room, or this is no folder that can be written to.
    """
    place = path.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UsageError(f"{path}: expected a folder to write to, got none; choose one with {option}")
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise UsageError(
            f"{path}: expected {needed_bytes / 1e6:.0f} MB of free disk space, "
            f"got {free / 1e6:.0f} MB; free some or choose another folder with {option}"
        )
