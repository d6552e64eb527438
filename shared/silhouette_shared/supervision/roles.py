"""What a supervisor starts: one process of a few roles, named on the command line."""

import argparse
import logging
import signal
import threading
from collections.abc import Callable, Mapping
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
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def interrupt_on_terminate() -> None:
    """Let SIGTERM end an event loop the way that Ctrl-C does, with everything closed."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
