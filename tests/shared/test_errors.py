"""Exit codes are an interface: scripts of partner operators branch on them."""

from __future__ import annotations

import pytest

from silhouette_shared.errors import (
    IntegrityError,
    RefusedError,
    SilhouetteError,
    UnavailableError,
    UsageError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SilhouetteError, 1),
        (UsageError, 2),
        (RefusedError, 3),
        (UnavailableError, 4),
        (IntegrityError, 5),
    ],
)
def test_every_kind_of_error_has_its_documented_exit_code(error: type[SilhouetteError], code: int) -> None:
    assert error.exit_code == code


def test_every_error_is_caught_as_a_silhouette_error_and_keeps_its_message() -> None:
    message = "expected 3 partners, got 2; invite another"
    for kind in (UsageError, RefusedError, UnavailableError, IntegrityError):
        with pytest.raises(SilhouetteError, match=message):
            raise kind(message)


def test_an_error_takes_exactly_one_message() -> None:
    with pytest.raises(TypeError):
        UsageError("one", "two")  # type: ignore[call-arg]
