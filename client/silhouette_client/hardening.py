"""What a process that holds people's records gives up: core dumps, and being looked into by others of its user.

A core dump would write histories, keys and round secrets to a disk. A process that is not dumpable cannot be attached
to by another process of the same user, and its memory under /proc belongs to root.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys

from silhouette_shared.errors import UnavailableError

_LOG = logging.getLogger(__name__)
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4  # linux/prctl.h


def protect_process() -> None:
    """Switch off core dumps and dumpability for this process; children inherit the first, and `exec` undoes the second.

    Raises:
        UnavailableError: If the kernel refuses.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError) as error:
        raise UnavailableError(
            f"expected to switch core dumps off, the system refused: {error}; ask its owner"
        ) from None
    if not sys.platform.startswith("linux"):
        _LOG.warning("this system has no prctl: other processes of this user may look into this one")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise UnavailableError(f"expected to make this process undumpable, the system refused: {reason}; ask its owner")


def is_protected() -> bool:
    """Whether both are off."""
    no_core = resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    if not sys.platform.startswith("linux"):
        return no_core
    return no_core and int(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)) == 0
