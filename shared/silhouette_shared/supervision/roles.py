"""What a supervisor starts: one process of a few roles, named on the command line."""

import argparse
import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path

from silhouette_shared.errors import SilhouetteError
from silhouette_shared.supervision.logs import log_to_standard_error


def run_role(package: str, roles: Mapping[str, Callable[[Path], None]]) -> int:
    """Run `python -m PACKAGE ROLE --home HOME` until it is asked to end.

    Args:
        package: Names the lines of its log.
        roles: What each does, given the home; it returns when it has ended in order.

    Returns:
        The exit code: 0, that of a `SilhouetteError`, 2 for a role that there is not.
    """
    parser = argparse.ArgumentParser(prog=package)
    parser.add_argument("role", choices=list(roles))
    parser.add_argument("--home", type=Path, required=True)
    given = parser.parse_args()
    log_to_standard_error()
    try:
        roles[given.role](given.home)
    except SilhouetteError as error:
        logging.getLogger(package).error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def end_on_signals() -> threading.Event:
    """What is set when the process is asked to end, by SIGTERM or SIGINT."""
    stop = threading.Event()
    call_on_signals(stop.set)
    return stop


def call_on_signals(call: Callable[[], object]) -> None:
    """Call something, from a thread of its own, once the process is asked to end, by SIGTERM or SIGINT.

    A handler runs between two steps of the main thread: it is late where that thread was just about to wait, and stands
    still if it sets an event whose lock that thread holds. What wakes the other thread is written by the interpreter as
    soon as the signal comes. To be called in the main thread of a process that has no event loop there.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        os.read(reading, 1)
        call()

    threading.Thread(target=wait, name="end-on-signals", daemon=True).start()


def run_until_asked(work: Coroutine[object, object, None]) -> None:
    """Run an event loop to the end of its work, or until SIGTERM or SIGINT, with everything closed.

    Both are handled by the loop: a process that a shell started in the background ignores SIGINT, which `asyncio.run`
    leaves so.
    """

    async def asked() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await work

    with suppress(asyncio.CancelledError):
        asyncio.run(asked())
