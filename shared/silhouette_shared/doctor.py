"""What `silhouette doctor` looks at: the parts this machine has, and how to get the others.

Each check looks and reports; none changes anything or raises.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_GIB = 2**30
_LEAST_DISK_GIB = 1.0  # MovieLens-100K, its tables and a few run folders stay under a tenth of it
_LEAST_MEMORY_GIB = 1.0  # torch, Flower and the default plan together
_SOURCE_INSTALL = "run `pip install -r requirements.txt` in the source folder"


class State(StrEnum):
    """How a check ended; only `missing` makes the machine unfit."""

    ok = "ok"
    missing = "missing"
    optional = "optional"


@dataclass(frozen=True)
class Check:
    """One thing looked at: its name, what was found and, where needed, what to do."""

    name: str
    state: State
    finding: str
    remedy: str = ""


def examine(home: Path) -> tuple[Check, ...]:
    """Look at this machine.

    Args:
        home: The folder of data, keys and settings; it need not exist.

    >>> [check.name for check in examine(Path("."))][:3]
    ['python', 'torch', 'flwr']
    """
    return (
        _python(),
        _torch(),
        _pinned("flwr"),
        _pinned("opacus"),
        _library("cryptography"),
        _ray(),
        _memory(),
        _home(home),
        _disk(home),
        _movielens(home),
    )


def _python() -> Check:
    number = platform.python_version()
    if tuple(int(part) for part in platform.python_version_tuple()[:2]) < (3, 11):
        return Check("python", State.missing, f"{number}, too old", "install Python 3.11")
    return Check("python", State.ok, number)


def _torch() -> Check:
    def describe() -> str:
        import torch

        threads = torch.get_num_threads()
        device = f"cpu with {threads} thread{'s' * (threads != 1)}"
        if torch.cuda.is_available():
            device = f"cuda ({torch.cuda.get_device_name()}), {device}"
        return f"{torch.__version__}, device {device}"

    return _tried("torch", describe)


def _pinned(name: str) -> Check:
    """Check a library whose insides are relied on against the version that was pinned."""
    check = _library(name)
    wanted = requirement_pins("silhouette-shared").get(name)
    if check.state is State.ok and wanted is not None:
        found = importlib.metadata.version(name)
        if found != wanted:
            return Check(name, State.missing, f"{found}, expected {wanted}", f"pip install {name}=={wanted}")
    return check


def _library(name: str) -> Check:
    def describe() -> str:
        importlib.import_module(name)
        return importlib.metadata.version(name)

    return _tried(name, describe)


def _tried(name: str, describe: Callable[[], str]) -> Check:
    try:
        return Check(name, State.ok, describe())
    except Exception as error:  # noqa: BLE001 - a half-installed library may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(name, State.missing, f"cannot be imported ({reason})", _SOURCE_INSTALL)


def _ray() -> Check:
    wanted = requirement_pins("silhouette-simulations").get("ray")
    pin = f"ray=={wanted}" if wanted else "ray"
    purpose = "only for `silhouette sim run --backend ray`"
    try:
        found = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return Check("ray", State.optional, f"not installed; {purpose}", f"pip install {pin}")
    if wanted is not None and found != wanted:
        finding = f"{found}, expected {wanted}; {purpose}"
        return Check("ray", State.optional, finding, f"pip install {pin}")
    return Check("ray", State.ok, f"{found}, {purpose}")


def _memory() -> Check:
    available = _available_memory() / _GIB
    finding = f"{available:.1f} GiB available"
    if available < _LEAST_MEMORY_GIB:
        remedy = f"{_LEAST_MEMORY_GIB:.0f} GiB is needed; close something"
        return Check("memory", State.missing, finding, remedy)
    return Check("memory", State.ok, finding)


def _available_memory() -> int:
    """Bytes a new process may take: what Linux says, else all the machine has."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        text = ""
    if match := re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE):
        return int(match[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _home(home: Path) -> Check:
    place = _existing(home)
    remedy = "choose another folder with --home or SILHOUETTE_HOME"
    if not place.is_dir():
        return Check("home", State.missing, f"{home}: {place} is not a folder", remedy)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check("home", State.missing, f"{home} cannot be written: {error.strerror}", remedy)
    return Check("home", State.ok, f"{home}" + ("" if home.exists() else ", not made yet"))


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(_existing(home)).free / _GIB
    finding = f"{free:.1f} GiB free at {home}"
    if free < _LEAST_DISK_GIB:
        remedy = f"{_LEAST_DISK_GIB:.0f} GiB is needed; free some, or choose another --home"
        return Check("disk", State.missing, finding, remedy)
    return Check("disk", State.ok, finding)


def _movielens(home: Path) -> Check:
    # The manifest is written last, so it stands for the whole data set.
    if (home / "data" / "ml-100k" / "manifest.json").is_file():
        return Check("ml-100k", State.ok, "in the cache")
    return Check(
        "ml-100k",
        State.optional,
        "not in the cache; `silhouette sim run` fetches it",
        "silhouette data get ml-100k",
    )


def _existing(path: Path) -> Path:
    """Go up to the nearest thing that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def requirement_pins(distribution: str) -> dict[str, str]:
    """Read the exact pins (`name==version`) an installed distribution declares.

    Args:
        distribution: Its name; one that is not installed declares nothing.

    >>> requirement_pins("not-installed")
    {}
    """
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)==([\w.]+)", requirement) for requirement in requirements)
    return {match[1]: match[2] for match in found if match}
