"""One build of profiles at a time at a node: the operator's, the agent's or one of a finished run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = ".profile-build.lock"
"""In a node's home; nobody holds it once its process has ended, however it did."""


@contextmanager
def one_build(home: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait until no other build runs, and keep others waiting meanwhile.

    Two at once could write with two models, or for two purposes, and each remove what the other wrote. What a build
    goes by (purpose, model) is therefore read inside of this.

    Args:
        home: Of the node.
        waiting: Called once if another build runs.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
