"""Operations of a registry over a disk that fails, or kills, once at every call it gets.

    LD_PRELOAD=… python fault_loop.py FOLDER

Prints JSON: what came of each.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.server.registry.house import LAYOUT, committed, opened, started, vector

from silhouette_server.registry import Registry, RoundState
from silhouette_shared.errors import UnavailableError

KINDS = {"sync": 1, "write": 2, "truncate": 3, "folder": 4, "rename": 5}
ANY, KILL = 6, -1
MOST_CALLS = 80


def commit(registry: Registry, run: str) -> None:
    registry.commit_round(run, 3, vector(3), LAYOUT, transcript=b"transcript")


def void(registry: Registry, run: str) -> None:
    registry.void_round(run, 3, "nobody answered")


def promote(registry: Registry, run: str) -> None:
    registry.promote(f"{run}:1")


def submit(registry: Registry, run: str) -> None:
    started(registry)


OPERATIONS: dict[str, Callable[[Registry, str], None]] = {
    "commit": commit,
    "void": void,
    "promote": promote,
    "submit": submit,
}


def standing(registry: Registry, operation: str, run: str) -> str:
    """What an operation has come to: "nothing", "all", or something that must not be."""
    alias, last = registry.alias(), registry.run(run).rounds[3]
    found = {
        "commit": last.state is RoundState.committed,
        "void": last.state is RoundState.void,
        "promote": alias is not None,
        "submit": len(registry.runs()) > 1,
    }
    if any(done for name, done in found.items() if name != operation):
        return f"something else: {found}"
    if operation == "submit" and found["submit"]:
        return {"running": "all", "submitted": "half"}[registry.runs()[1].state]  # two entries, each of them whole
    return "all" if found[operation] else "nothing"


RUN = "open-1"


def prepare(folder: Path) -> None:
    """A registry with two committed rounds and one that has begun."""
    folder.mkdir()
    with opened(folder) as registry:
        run = started(registry)
        for number in (1, 2):
            committed(registry, run, number)
        registry.begin_round(run, 3)


def prepared(root: Path, name: str) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(root / "prepared", root / name))


def outcome(folder: Path, operation: str) -> dict[str, object]:
    """How the next start finds the registry, and whether it goes on."""
    with opened(folder) as registry:
        found = standing(registry, operation, RUN)
        faults = [fault.what for fault in registry.verify()]
        if found == "nothing":
            OPERATIONS[operation](registry, RUN)  # the same again
        if registry.unfinished(RUN):
            registry.void_round(RUN, 3, "interrupted")
        committed(registry, RUN, 4)
        faults += [fault.what for fault in registry.verify()]
    return {"operation": operation, "standing": found, "faults": faults}


def failing(root: Path) -> list[dict[str, object]]:
    """Each call of each kind fails once."""
    arm, found = ctypes.CDLL(None).fault_arm, []
    for operation, work in OPERATIONS.items():
        for kind, number in KINDS.items():
            for nth in range(1, MOST_CALLS):
                code = (errno.EIO, errno.ENOSPC)[nth % 2]
                folder = prepared(root, f"{operation}-{kind}-{nth}")
                registry = opened(folder)
                arm(number, nth, code)
                message = ""
                try:
                    work(registry, RUN)
                except UnavailableError as error:
                    message = str(error)
                fired = bool(arm(0, 0, 0))
                registry.close()
                came = outcome(folder, operation)
                found.append({**came, "kind": kind, "nth": nth, "fired": fired, "message": message})
                if not fired:
                    break
    return found


def killed(root: Path) -> list[dict[str, object]]:
    """The process is killed before each call."""
    arm, found = ctypes.CDLL(None).fault_arm, []
    for operation, work in OPERATIONS.items():
        for nth in range(1, MOST_CALLS):
            folder = prepared(root, f"{operation}-kill-{nth}")
            child = os.fork()
            if child == 0:
                registry = opened(folder)
                arm(ANY, nth, KILL)
                work(registry, RUN)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            fired = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            if not fired and status != 0:
                sys.exit(f"{operation}, call {nth}: the child ended by itself with status {status}")
            found.append({**outcome(folder, operation), "nth": nth, "fired": fired})
            if not fired:
                break
    return found


if __name__ == "__main__":
    root = Path(sys.argv[1])
    prepare(root / "prepared")
    json.dump({"failed": failing(root), "killed": killed(root)}, sys.stdout)
