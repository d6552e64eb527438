"""Options that take several values: `--seed 0,1,2`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def listed(option: str, text: str, kind: Callable[[str], Value], what: str) -> list[Value]:
    """The values of an option, in the order given.

    Args:
        option: Without its dashes.
        text: As it was typed.
        kind: Makes a value; a ValueError of it says that it is none.
        what: Is expected, in the plural.

    Raises:
        UsageError: If a part is no such value.
    """
    from silhouette_shared.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    try:
        if not all(parts):
            raise ValueError
        return [kind(part) for part in parts]
    except ValueError:
        raise UsageError(f"--{option}: expected {what} separated by commas, got {text!r}") from None
