"""Files that a command is given with one identifier a line."""

from __future__ import annotations

from pathlib import Path


def lines_of(path: Path, what: str) -> list[str]:
    """The lines that hold anything, without the spaces around them and the mark that spreadsheets begin a file with.

    Args:
        path: The file.
        what: It is expected to hold, in the plural.

    Raises:
        UsageError: If it cannot be read as UTF-8.
    """
    from silhouette_shared.errors import UsageError

    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path}: expected {what} in UTF-8, one a line; check the path") from None
