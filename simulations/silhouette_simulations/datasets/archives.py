"""Fetching archives: from a publisher's address, or out of a package in the Python registry.

Nothing here trusts a network: what comes back is bytes whose SHA-256 was checked, and waiting
is bounded at every step, also for a name lookup, which no socket timeout covers.
"""

import hashlib
import io
import queue
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from silhouette_shared.errors import UnavailableError, UsageError

_CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A published file: where it is, how long it is, and what it hashes to."""

    url: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel in the Python package registry that is read, never installed."""

    requirement: str
    file_name: str
    sha256: str


def verified(data: bytes, sha256: str, where: str) -> bytes:
    """Return `data` if it has the expected SHA-256.

    Raises:
        UsageError: If it has another one.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise UsageError(f"{where}: expected SHA-256 {sha256}, got {found} ({len(data)} bytes); fetch it again")
    return data


def download(
    archive: Archive,
    *,
    connect_seconds: float = 5.0,
    total_seconds: float = 120.0,
    progress: Callable[[str], None] = lambda _message: None,
) -> bytes:
    """Fetch a published archive into memory and check it.

    Args:
        archive: What to fetch.
        connect_seconds: Longest wait for the first byte, name lookup included, and afterwards
            for each further piece.
        total_seconds: Longest time altogether.
        progress: Is told how much has arrived.

    Raises:
        UnavailableError: If the server cannot be reached, refuses, hangs or is too slow.
        UsageError: If what arrived is not the archive.
    """
    pieces: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    abandoned = threading.Event()
    # A lookup can block for longer than any timeout, so the waiting happens in a thread that
    # is given up; being a daemon, it does not hold up the end of the process either.
    threading.Thread(target=_stream, args=(archive, pieces, abandoned, connect_seconds), daemon=True).start()
    deadline = time.monotonic() + total_seconds
    data = bytearray()
    told = 0
    try:
        while True:
            left = deadline - time.monotonic()
            try:
                piece = pieces.get(timeout=max(min(connect_seconds, left), 0.0))
            except queue.Empty:
                raise UnavailableError(
                    f"expected {archive.url} to answer in time, got {len(data)} of "
                    f"{archive.size_bytes} bytes; try again later"
                ) from None
            if isinstance(piece, Exception):
                raise UnavailableError(f"expected to fetch {archive.url}, got: {piece}; check the network") from piece
            if not piece:
                return verified(bytes(data), archive.sha256, archive.url)
            data += piece
            if len(data) > archive.size_bytes:
                raise UsageError(
                    f"{archive.url}: expected {archive.size_bytes} bytes, got more; the archive was changed or replaced"
                )
            tenth = 10 * len(data) // archive.size_bytes
            if tenth > told:
                told = tenth
                progress(f"{len(data) / 1e6:.1f} of {archive.size_bytes / 1e6:.1f} MB")
    finally:
        abandoned.set()


def _stream(
    archive: Archive,
    pieces: "queue.SimpleQueue[bytes | Exception]",
    abandoned: threading.Event,
    timeout_seconds: float,
) -> None:
    try:
        # Any scheme will do: what comes is believed for its hash, not for where it was.
        with urllib.request.urlopen(archive.url, timeout=timeout_seconds) as answer:  # noqa: S310
            while not abandoned.is_set():
                piece = answer.read1(_CHUNK_BYTES)
                pieces.put(piece)
                if not piece:
                    return
    except Exception as error:  # noqa: BLE001 - handed to the waiting side, which raises it
        pieces.put(error)


def fetch_wheel(
    wheel: Wheel,
    scratch: Path,
    *,
    total_seconds: float = 300.0,
    command: Sequence[str] = (sys.executable, "-m", "pip"),
) -> bytes:
    """Fetch a wheel with pip, which knows this machine's registry, and check it.

    Args:
        wheel: What to fetch; no dependencies come with it and nothing is installed.
        scratch: An empty folder that the caller removes.
        total_seconds: Longest time altogether.
        command: How to call pip.

    Raises:
        UnavailableError: If pip is missing, fails or takes too long.
        UsageError: If what arrived is not that wheel.
    """
    arguments = [
        *command,
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--quiet",
        "--no-input",
        "--timeout=15",
        "--retries=2",
        f"--dest={scratch}",
        wheel.requirement,
    ]
    try:
        done = subprocess.run(  # a fixed command, no shell
            arguments, capture_output=True, text=True, timeout=total_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"expected pip to fetch {wheel.requirement} within {total_seconds:g} seconds, it did not; try again later"
        ) from None
    except OSError as error:
        raise UnavailableError(f"expected to run pip, got: {error}; install pip") from error
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        if "No space left" in done.stderr:
            last = "the disk is full"
        raise UnavailableError(f"expected pip to fetch {wheel.requirement}, it failed: {last}; check the network")
    path = scratch / wheel.file_name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnavailableError(
            f"expected pip to fetch {wheel.file_name}, got "
            f"{', '.join(sorted(entry.name for entry in scratch.iterdir())) or 'nothing'}"
        ) from None
    return verified(data, wheel.sha256, wheel.file_name)


def members(data: bytes, names: Mapping[str, str], where: str) -> dict[str, bytes]:
    """Read some members of a zip archive.

    Args:
        data: The whole archive.
        names: Short name -> name of the member in the archive.
        where: What to call the archive in an error.

    Raises:
        UsageError: If the archive is cut or damaged, or lacks a member.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {short: archive.read(name) for short, name in names.items()}
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError) as error:
        raise UsageError(
            f"{where}: expected a whole zip archive with {', '.join(names.values())}, got: {error}; fetch it again"
        ) from error
