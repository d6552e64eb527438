"""The errors a person sees, each with the exit code of the command that met it.

A message says what was expected, what came and what to do next, in one line:
`expected 3 partners, got 2; invite another`. A problem in a file starts with
`path:line: `. No message names an event, an item, a profile or a gradient.
"""

from __future__ import annotations

from typing import ClassVar


class SilhouetteError(Exception):
    """Any failure that is explained to the person instead of shown as a traceback.

    Args:
        message: One line: what was expected, what came, what to do next.

    >>> str(UsageError("plan.toml:3: expected a positive number, got -1; change `rounds`"))
    'plan.toml:3: expected a positive number, got -1; change `rounds`'
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        """Keep the one message; there is nothing else to carry."""
        super().__init__(message)


class UsageError(SilhouetteError):
    """Bad input: a plan, a table or an argument. Nothing was written. Exit code 2."""

    exit_code: ClassVar[int] = 2


class RefusedError(SilhouetteError):
    """A policy or the privacy budget says no. Exit code 3."""

    exit_code: ClassVar[int] = 3


class UnavailableError(SilhouetteError):
    """Not reachable, timed out, disk full or too few replies; it may work later. Exit code 4."""

    exit_code: ClassVar[int] = 4


class IntegrityError(SilhouetteError):
    """A checksum or a signature does not fit, or a file is corrupt. Exit code 5."""

    exit_code: ClassVar[int] = 5
