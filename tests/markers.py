"""Looking for planted words in whatever a node has written, open files that have no name any more among it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def contents(folders: Iterable[Path], processes: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file below some folders, and of every file that some processes have open."""
    for folder in folders:
        for path in [folder, *sorted(folder.rglob("*"))]:
            if path.is_file():
                yield str(path), path.read_bytes()
    for process in processes:
        for link in sorted(Path(f"/proc/{process}/fd").iterdir()):
            try:
                target = str(link.readlink())
                if target.startswith("/") and link.is_file() and not target.startswith("/proc/"):
                    yield target, link.read_bytes()
            except FileNotFoundError:  # closed meanwhile
                continue


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:  # it has ended
        return []
    return [process, *(one for child in children for one in family(int(child)))]
