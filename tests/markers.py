"""Looking for planted words in whatever a node has written, open files without a name among it, and in frames."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def contents(folders: Iterable[Path], processes: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file below some folders, and of every file that some processes have open.

    What goes away while this looks, a temporary folder or a process that has done its work, is left out.
    """
    for folder in folders:
        assert folder.exists(), folder
        for path in [folder] if folder.is_file() else _files(folder):
            with suppress(FileNotFoundError):
                yield str(path), path.read_bytes()
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            for link in sorted(Path(f"/proc/{process}/fd").iterdir()):
                with suppress(FileNotFoundError):
                    target = str(link.readlink())
                    if target.startswith("/") and link.is_file() and not target.startswith("/proc/"):
                        yield target, link.read_bytes()


def _files(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder, onerror=_unless_gone):
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(here, name)).is_file())


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []
    return [process, *(one for child in children for one in family(int(child)))]


def spelled(secret: bytes) -> list[bytes]:
    """As it is, and as text may hold it."""
    return [secret, secret.hex().encode(), b64encode(secret).rstrip(b"=")[:-1]]


def shouted_in(frame: bytes) -> bool:
    """Whether a frame is a part of the control, UDP to port 9, or the answer (ICMP) that nobody listens there."""
    return frame[12:14] == b"\x08\x00" and (frame[23] == 1 or (frame[23] == 17 and frame[36:38] == b"\x00\x09"))
