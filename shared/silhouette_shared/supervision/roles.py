"""The beginning and the end of a program that a supervisor starts: `python -m … ROLE --home HOME`."""

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from silhouette_shared.errors import SilhouetteError
from silhouette_shared.supervision.logs import log_to_standard_error

_LOG = logging.getLogger(__name__)


def play(roles: Mapping[str, Callable[[Path], None]]) -> int:
    """Play the role that the command line names, in its home, until it is asked to end.

    Args:
        roles: What each does; an error of ours ends it.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=list(roles))
    parser.add_argument("--home", type=Path, required=True)
    given = parser.parse_args()
    log_to_standard_error()
    try:
        roles[given.role](given.home)
    except SilhouetteError as error:
        _LOG.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0
