"""What must not reach the test run itself (limits, kills, a priority) is done in a child of it."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_a_child(body: Callable[[], int | None]) -> int:
    """Exit code of a forked process that does something, less than 0 for a signal; 99 if that raised."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = body() or 0
        except BaseException as error:  # noqa: BLE001 - the parent tells
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
