"""Where a node keeps its people, for whoever asks only whether there are any; `records` reads and writes them."""

from pathlib import Path

FOLDER = Path("node") / "people"
"""In a node's home."""


def manifest_of(folder: Path) -> Path:
    """The manifest of a folder of people: there once anything was taken in, replaced whenever the records change."""
    return folder / "manifest.json"
